// What a simulated chip is like: its size, its speed and its planned faults. Read from a text file;
// docs/simchip.md describes the keys.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace tpuserve::simchip {

// The text names the file and the line.
struct ProfileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Nets of one kind take the same time; a layer's number does not matter.
enum class NetKind { kEmbedding, kBlock, kBlockKv, kBlockCache, kHead, kGreedyHead };

// One launch takes launch_us + rows × row_us + weight_bytes ÷ weight_gb_per_s + the bytes of KV
// that it reads ÷ kv_gb_per_s. A speed of 0 is no time.
struct NetCost {
  double launch_us = 0;
  double row_us = 0;
  double weight_bytes = 0;
  double weight_gb_per_s = 0;
  double kv_gb_per_s = 0;
};

enum class FaultKind {
  kFail,       // the launch returns false
  kHang,       // waiting for it times out, or never ends
  kNan,        // its outputs are NaN
  kChipFault,  // it returns false, and so does every call to the chip from then on
};

struct Fault {
  int token = -1;            // embedding this id, in every launch; -1: what follows decides
  std::string net;           // empty: any
  std::uint64_t launch = 0;  // of matching nets on a chip, counted from 1 in a process
  FaultKind kind = FaultKind::kFail;
  double seconds = 0;  // of a hang; 0 is for ever
};

struct Profile {
  int chips = 1;
  std::uint64_t memory_bytes = 0;
  std::optional<unsigned> temperature_celsius;
  std::optional<float> power_watts;
  std::optional<int> clock_mhz;

  double scale = 0;  // of all times; 0 waits for nothing
  double copy_us = 0;
  double copy_gb_per_s = 0;
  std::map<NetKind, NetCost> costs;

  // Of the model, where an argmax head hides it and the file holds no weights. 0: not told.
  int vocab_size = 0;
  std::vector<Fault> faults;
};

// Throws ProfileError.
Profile load_profile(const std::string& path);

}  // namespace tpuserve::simchip
