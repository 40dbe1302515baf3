#include "emulator_loader.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "emulator_copies.h"
#include "import_table.h"

namespace tpuserve::runtime {

namespace {

// libbmlib asks for "libcmodel.so" or what this variable names; and, for layers that run on the
// host, for libraries of their code.
bool is_cmodel(const char* name) {
  const char* named = std::getenv("TPUKERNEL_FIRMWARE_PATH");
  return std::strstr(name, "libcmodel") != nullptr ||
         (named != nullptr && std::strcmp(name, named) == 0);
}

template <int kCopy>
class Loader {
 public:
  static bool install(void* bmlib, void* cmodel) {
    provided.store(cmodel);
    void* original = nullptr;
    // Without that import, it finds libcmodel beside itself as always.
    return ImportTable(bmlib).redirect_all(
        {{"dlopen", reinterpret_cast<void*>(&open_provided), &original}});
  }

 private:
  static void* open_provided(const char* name, int flags) {
    if (name != nullptr && is_cmodel(name)) return provided.load();
    Lmid_t space = LM_ID_BASE;
    dlinfo(provided.load(), RTLD_DI_LMID, &space);
    return dlmopen(space, name, flags);
  }

  static inline std::atomic<void*> provided{nullptr};
};

}  // namespace

void provide_cmodel(void* bmlib, void* cmodel, int copy) {
  install_hook<Loader>(copy, bmlib, cmodel);
}

}  // namespace tpuserve::runtime
