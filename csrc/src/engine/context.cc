#include "context.h"

#include "tpuserve/errors.h"

namespace tpuserve::engine {

namespace {

ModelNets discover_in(const runtime::Bmodel& bmodel, const std::string& path) {
  try {
    return discover(bmodel.nets());
  } catch (const BmodelError& error) {
    throw BmodelError(path + ": " + error.what());
  }
}

}  // namespace

Context::Context(runtime::Chip& chip, const std::string& path)
    : bmodel(chip, path),
      nets(discover_in(bmodel, path)),
      kv(nets, chip),
      head(chip, bmodel, nets),
      decode(chip, bmodel, nets) {}

}  // namespace tpuserve::engine
