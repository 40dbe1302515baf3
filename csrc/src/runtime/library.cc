#include "tpuserve/runtime/library.h"

#include <dlfcn.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "emulator_calm.h"
#include "emulator_loader.h"
#include "emulator_quiet.h"
#include "status.h"
#include "symbols.h"
#include "tpuserve/errors.h"
#include "tpuserve/runtime/chip.h"

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

void* open_library(const std::string& path) {
  // RTLD_NODELETE: the vendor's threads and exit handlers must find their code until the end.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw LibraryError("cannot load " + path + ": " + (reason != nullptr ? reason : "no reason"));
  }
  return handle;
}

std::string absolute_directory(const std::string& directory) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    throw LibraryError("no directory " + directory);
  }
  return std::filesystem::absolute(directory).string();
}

}  // namespace

struct Library::StatusChips {
  std::mutex mutex;
  std::map<int, std::unique_ptr<Chip>> open;
};

Library::Library(std::string directory, bool emulator, const Symbols& symbols)
    : directory_(std::move(directory)),
      emulator_(emulator),
      symbols_(std::make_unique<Symbols>(symbols)),
      status_chips_(std::make_unique<StatusChips>()) {}

Library::~Library() = default;

std::shared_ptr<Library> Library::load(const std::string& directory, bool emulator) {
  const std::string root = absolute_directory(directory);
  const std::string bmlib_path = find_library(root, {"libbmlib.so.0", "libbmlib.so"});
  const std::string bmrt_path = find_library(root, {"libbmrt.so.1.0", "libbmrt.so"});
  // libbmrt needs libbmlib by name: what is loaded first is what it gets.
  void* bmlib = open_library(bmlib_path);
  if (emulator) {
    // Ahead of libbmlib, which loads it when a chip is opened: its threads must start patched.
    void* cmodel = open_library(find_file(root, {"libcmodel.so"}));
    calm_emulator(cmodel);
    quiet_emulator(cmodel, bmlib);
    provide_cmodel(bmlib, cmodel);
  }
  void* bmrt = open_library(bmrt_path);
  const Symbols symbols = load_symbols(bmlib, bmlib_path, bmrt, bmrt_path);
  return std::shared_ptr<Library>(new Library(root, emulator, symbols));
}

std::string Library::version() const {
  if (symbols_->libbmrt_version == nullptr) return "";
  const char* text = symbols_->libbmrt_version();
  return text != nullptr ? text : "";
}

bool Library::decrypts() const { return symbols_->bmrt_load_bmodel_with_decrypt != nullptr; }

int Library::chip_count() const {
  int count = 0;
  // Without a driver the call fails; that is the same as no chip.
  if (symbols_->bm_dev_getcount(&count) != abi::kSuccess) return 0;
  return count;
}

ChipStatus Library::chip_status(int chip) {
  constexpr std::uint64_t kMebibyte = 1ULL << 20;
  constexpr std::uint64_t kMegahertz = 1'000'000;
  const std::lock_guard<std::mutex> lock(status_chips_->mutex);
  std::unique_ptr<Chip>& open = status_chips_->open[chip];
  if (open == nullptr) open = Chip::open(*this, chip);
  abi::Context* handle = open->handle();

  ChipStatus status;
  status.chip = chip;
  abi::DeviceStat stat{};
  // The emulator succeeds with all fields zero: no memory at all is no reading.
  if (symbols_->bm_get_stat != nullptr && symbols_->bm_get_stat(handle, &stat) == abi::kSuccess &&
      stat.total_mib > 0) {
    status.memory_total_bytes = static_cast<std::uint64_t>(stat.total_mib) * kMebibyte;
    status.memory_used_bytes = static_cast<std::uint64_t>(stat.used_mib) * kMebibyte;
    status.utilisation_ratio = stat.utilisation_percent / 100.0;
  }
  unsigned celsius = 0;
  if (symbols_->bm_get_chip_temp != nullptr &&
      symbols_->bm_get_chip_temp(handle, &celsius) == abi::kSuccess) {
    status.temperature_celsius = celsius;
  }
  float watts = 0;
  if (symbols_->bm_get_tpu_power != nullptr &&
      symbols_->bm_get_tpu_power(handle, &watts) == abi::kSuccess) {
    status.power_watts = static_cast<double>(watts);
  }
  int megahertz = 0;
  if (symbols_->bm_get_clk_tpu_freq != nullptr &&
      symbols_->bm_get_clk_tpu_freq(handle, &megahertz) == abi::kSuccess && megahertz > 0) {
    status.clock_hz = static_cast<std::uint64_t>(megahertz) * kMegahertz;
  }
  return status;
}

}  // namespace tpuserve::runtime
