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
  int chip_count() const;
  // Thread-safe. Opens the chip on the first call and keeps it open. Throws like Chip::open.
  ChipStatus chip_status(int chip);

  const Symbols& symbols() const { return *symbols_; }

 private:
  struct StatusChips;

  Library(std::string directory, bool emulator, const Symbols& symbols);

  std::string directory_;
  bool emulator_;
  std::unique_ptr<Symbols> symbols_;
  std::unique_ptr<StatusChips> status_chips_;
};

}  // namespace tpuserve::runtime
