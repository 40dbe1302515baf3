#include "tpuserve/runtime/library.h"

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "emulator_copies.h"
#include "status.h"
#include "symbols.h"
#include "tpuserve/errors.h"
#include "tpuserve/runtime/chip.h"
#include "vendor_libraries.h"

namespace tpuserve::runtime {

namespace {

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

struct Library::Emulated {
  std::mutex mutex;
  std::map<int, Symbols> chips;  // above number 0; entries stay where they are
};

Library::Library(std::string directory, bool emulator, const Symbols& symbols)
    : directory_(std::move(directory)),
      emulator_(emulator),
      symbols_(std::make_unique<Symbols>(symbols)),
      emulated_(std::make_unique<Emulated>()),
      status_chips_(std::make_unique<StatusChips>()) {}

Library::~Library() = default;

std::shared_ptr<Library> Library::load(const std::string& directory, bool emulator) {
  const std::string root = absolute_directory(directory);
  const Symbols symbols =
      load_vendor_libraries(root, emulator ? std::optional<int>(0) : std::nullopt);
  return std::shared_ptr<Library>(new Library(root, emulator, symbols));
}

int Library::chip_limit() const { return emulator_ ? kEmulatedChips : chip_count(); }

ChipAccess Library::access(int chip) const {
  const int limit = chip_limit();
  if (chip < 0 || chip >= limit) {
    throw std::invalid_argument("chip " + std::to_string(chip) +
                                " does not exist: the library in " + directory_ + " lists " +
                                std::to_string(limit) + (limit == 1 ? " chip" : " chips") +
                                ", numbered from 0");
  }
  if (!emulator_) return {*symbols_, chip};
  constexpr int kOnlyOne = 0;
  if (chip == 0) return {*symbols_, kOnlyOne};
  const std::lock_guard<std::mutex> lock(emulated_->mutex);
  const auto found = emulated_->chips.find(chip);
  if (found != emulated_->chips.end()) return {found->second, kOnlyOne};
  const Symbols symbols = load_vendor_libraries(directory_, chip);
  return {emulated_->chips.emplace(chip, symbols).first->second, kOnlyOne};
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
  const Symbols& symbols = open->symbols();

  ChipStatus status;
  status.chip = chip;
  abi::DeviceStat stat{};
  // The emulator succeeds with all fields zero: no memory at all is no reading.
  if (symbols.bm_get_stat != nullptr && symbols.bm_get_stat(handle, &stat) == abi::kSuccess &&
      stat.total_mib > 0) {
    status.memory_total_bytes = static_cast<std::uint64_t>(stat.total_mib) * kMebibyte;
    status.memory_used_bytes = static_cast<std::uint64_t>(stat.used_mib) * kMebibyte;
    status.utilisation_ratio = stat.utilisation_percent / 100.0;
  }
  unsigned celsius = 0;
  if (symbols.bm_get_chip_temp != nullptr &&
      symbols.bm_get_chip_temp(handle, &celsius) == abi::kSuccess) {
    status.temperature_celsius = celsius;
  }
  float watts = 0;
  if (symbols.bm_get_tpu_power != nullptr &&
      symbols.bm_get_tpu_power(handle, &watts) == abi::kSuccess) {
    status.power_watts = static_cast<double>(watts);
  }
  int megahertz = 0;
  if (symbols.bm_get_clk_tpu_freq != nullptr &&
      symbols.bm_get_clk_tpu_freq(handle, &megahertz) == abi::kSuccess && megahertz > 0) {
    status.clock_hz = static_cast<std::uint64_t>(megahertz) * kMegahertz;
  }
  return status;
}

}  // namespace tpuserve::runtime
