// The vendor runtime, loaded at run time: one binary serves the PCIe driver, the SoC and the
// emulator.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace tpuserve::runtime {

class Chip;
struct Symbols;

// One chip's readings; empty where the driver does not support the reading.
struct ChipStatus {
  int chip = 0;
  std::optional<std::uint64_t> memory_total_bytes;
  std::optional<std::uint64_t> memory_used_bytes;
  std::optional<double> utilisation_ratio;
  std::optional<double> temperature_celsius;
  std::optional<double> power_watts;
  std::optional<std::uint64_t> clock_hz;
};

// Through which functions a chip is reached, and by which number they know it.
struct ChipAccess {
  const Symbols& symbols;
  int vendor_id;
};

// libbmlib and libbmrt of one directory. Never unloaded: their threads may outlive every owner.
class Library {
 public:
  // Throws LibraryError when a file or symbol is missing or a struct has another layout.
  // `emulator` calms the busy wait of the chip emulator (see emulator_calm.h).
  static std::shared_ptr<Library> load(const std::string& directory, bool emulator);

  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const std::string& directory() const { return directory_; }
  bool emulator() const { return emulator_; }
  std::string version() const;
  // Whether it loads bmodels whose weights a function of the caller's decrypts.
  bool decrypts() const;
  // What the runtime lists; 1 with the emulator.
  int chip_count() const;
  // Chips are numbered below this. The emulator has as many as are asked for, up to a few.
  int chip_limit() const;
  // Thread-safe. Opens the chip on the first call and keeps it open. Throws like Chip::open.
  ChipStatus chip_status(int chip);

  // Thread-safe. Throws std::invalid_argument for a chip at or above the limit.
  ChipAccess access(int chip) const;

 private:
  struct Emulated;
  struct StatusChips;

  Library(std::string directory, bool emulator, const Symbols& symbols);

  std::string directory_;
  bool emulator_;
  std::unique_ptr<Symbols> symbols_;
  std::unique_ptr<Emulated> emulated_;
  std::unique_ptr<StatusChips> status_chips_;
};

}  // namespace tpuserve::runtime
