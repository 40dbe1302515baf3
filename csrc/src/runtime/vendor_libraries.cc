#include "vendor_libraries.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "emulator_calm.h"
#include "emulator_devices.h"
#include "emulator_loader.h"
#include "emulator_quiet.h"
#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

std::string find_file(const std::filesystem::path& directory,
                      const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const std::filesystem::path path = directory / name;
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) return path.string();
  }
  std::string wanted = names.front();
  for (std::size_t i = 1; i < names.size(); ++i) wanted += " or " + names[i];
  throw LibraryError("no " + wanted + " in " + directory.string());
}

// The simulated chip is both libraries in one file.
std::string find_library(const std::filesystem::path& directory,
                         const std::vector<std::string>& names) {
  const std::filesystem::path simchip = directory / "libsimchip.so";
  std::error_code ignored;
  return std::filesystem::exists(simchip, ignored) ? simchip.string() : find_file(directory, names);
}

// The link namespace that the libraries of one chip live in.
class LinkNamespace {
 public:
  explicit LinkNamespace(bool own) : id_(own ? LM_ID_NEWLM : LM_ID_BASE) {}

  void* open(const std::string& path) {
    // RTLD_NODELETE: the vendor's threads and exit handlers must find their code until the end.
    constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;
    // dlopen for what is our own: sanitizers know that call only.
    void* handle =
        id_ == LM_ID_BASE ? dlopen(path.c_str(), kFlags) : dlmopen(id_, path.c_str(), kFlags);
    if (handle == nullptr) {
      const char* reason = dlerror();
      throw LibraryError("cannot load " + path + ": " + (reason != nullptr ? reason : "no reason"));
    }
    if (id_ == LM_ID_NEWLM) dlinfo(handle, RTLD_DI_LMID, &id_);
    return handle;
  }

 private:
  Lmid_t id_;
};

Symbols load(const std::string& directory, std::optional<int> emulated_chip) {
  const std::string bmlib_path = find_library(directory, {"libbmlib.so.0", "libbmlib.so"});
  const std::string bmrt_path = find_library(directory, {"libbmrt.so.1.0", "libbmrt.so"});
  const int copy = emulated_chip.value_or(0);
  LinkNamespace space(copy > 0);
  // libbmrt needs libbmlib by name: what is loaded first is what it gets.
  void* bmlib = space.open(bmlib_path);
  if (emulated_chip.has_value()) {
    // Ahead of libbmlib, which loads it when a chip is opened: its threads must start patched.
    void* cmodel = space.open(find_file(directory, {"libcmodel.so"}));
    calm_emulator(cmodel, copy);
    quiet_emulator(cmodel, bmlib);
    provide_cmodel(bmlib, cmodel, copy);
  }
  void* bmrt = space.open(bmrt_path);
  if (emulated_chip.has_value()) share_one_device(bmrt, bmlib, copy);
  Symbols symbols = load_symbols(bmlib, bmlib_path, bmrt, bmrt_path);
  symbols.own_c_library = copy > 0;
  symbols.malloc = std::malloc;
  symbols.free = std::free;
  if (symbols.own_c_library) {
    symbols.malloc = reinterpret_cast<void* (*)(std::size_t)>(dlsym(bmrt, "malloc"));
    symbols.free = reinterpret_cast<void (*)(void*)>(dlsym(bmrt, "free"));
  }
  return symbols;
}

}  // namespace

Symbols load_vendor_libraries(const std::string& directory, std::optional<int> emulated_chip) {
  if (emulated_chip.value_or(0) == 0) return load(directory, emulated_chip);
  // Once for the process, as dlopen does by itself: link namespaces are few.
  static std::mutex mutex;
  static std::map<std::pair<std::string, int>, Symbols> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_pair(directory, *emulated_chip);
  const auto found = loaded.find(key);
  if (found != loaded.end()) return found->second;
  return loaded.emplace(key, load(directory, emulated_chip)).first->second;
}

}  // namespace tpuserve::runtime
