#include "context.h"

#include "tpuserve/errors.h"

namespace tpuserve::engine {

namespace {

// How many ids an embedding knows, by the size of its weight. That is rounded up to a page, so a
// few ids past the vocabulary pass. 0 when the runtime does not tell.
int rows_of_weight(const runtime::Bmodel& bmodel, const ModelNets& nets) {
  const std::vector<std::uint32_t> weights = bmodel.weight_bytes(*nets.prefill_embedding.net);
  if (weights.size() != 1) return 0;
  const std::size_t row_bytes =
      static_cast<std::size_t>(nets.spec.hidden_size) * size_bytes(nets.spec.dtype);
  return static_cast<int>(weights[0] / row_bytes);
}

ModelNets discover_in(const runtime::Bmodel& bmodel, const OlderForms& forms,
                      const std::string& path, PartRole role) {
  try {
    ModelNets nets = discover(forms.nets(), role);
    if (role.has_embedding_nets() && nets.spec.embedding_rows == 0)
      nets.spec.embedding_rows = rows_of_weight(bmodel, nets);
    return nets;
  } catch (const BmodelError& error) {
    throw BmodelError(path + ": " + error.what());
  }
}

std::vector<KvRows> make_slots(runtime::Chip& chip, const ModelNets& nets) {
  std::vector<KvRows> slots;
  for (int slot = 0; slot < nets.spec.decode_rows; ++slot) {
    slots.emplace_back(nets, chip, static_cast<std::size_t>(slot));
  }
  return slots;
}

}  // namespace

Context::Context(runtime::Chip& chip, const runtime::BmodelSource& source, PartRole role,
                 bool deterministic)
    : bmodel(chip, source),
      forms(chip, bmodel.nets()),
      nets(discover_in(bmodel, forms, source.name, role)),
      slots(make_slots(chip, nets)),
      decode(chip, bmodel, nets, deterministic) {
  if (nets.spec.vision.has_value()) {
    crossing.emplace(chip, nets);
    for (std::size_t slot = 0; slot < slots.size(); ++slot) images.emplace_back(nets, chip, slot);
  }
  if (role.last) head.emplace(chip, bmodel, nets);
}

}  // namespace tpuserve::engine
