#include "emulator_loader.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "import_table.h"

namespace tpuserve::runtime {

namespace {

std::atomic<void*> provided{nullptr};

// libbmlib asks for "libcmodel.so" or what this variable names; and, for layers that run on the
// host, for libraries of their code.
bool is_cmodel(const char* name) {
  const char* named = std::getenv("TPUKERNEL_FIRMWARE_PATH");
  return std::strstr(name, "libcmodel") != nullptr ||
         (named != nullptr && std::strcmp(name, named) == 0);
}

void* open_provided(const char* name, int flags) {
  if (name != nullptr && is_cmodel(name)) return provided.load();
  return dlopen(name, flags);
}

}  // namespace

void provide_cmodel(void* bmlib, void* cmodel) {
  provided.store(cmodel);
  void* original = nullptr;
  // Without that import, it finds libcmodel beside itself as always.
  ImportTable(bmlib).redirect_all({{"dlopen", reinterpret_cast<void*>(&open_provided), &original}});
}

}  // namespace tpuserve::runtime
