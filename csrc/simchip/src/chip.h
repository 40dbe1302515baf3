// One simulated chip: its memory, what is queued on it, its clock and its faults.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "memory.h"
#include "profile.h"

namespace tpuserve::simchip {

using Clock = std::chrono::steady_clock;

// A range of memory that a launch reads or writes.
struct Use {
  std::uint64_t address;
  std::uint64_t bytes;
  bool write;
};

class Chip {
 public:
  explicit Chip(const Profile& profile);

  Memory memory;
  bool faulty = false;         // status Fault: every call fails
  std::uint64_t kv_bytes = 0;  // of K and V that launches have read
  bool nan_injected = false;   // by a fault: NaN in memory is no surprise from then on

  // Counts a launch of the net; the fault that is planned for it, or null.
  const Fault* count_launch(const std::string& net);
  // The fault that an id brings about wherever it is embedded, or null.
  const Fault* fault_of_token(std::int32_t token) const;
  std::uint64_t launches() const { return launches_; }

  // Queues work of this thread. `cost_us` is before scaling.
  void queue(const std::vector<Use>& uses, double cost_us);
  void queue_copy(std::uint64_t bytes);
  void queue_hang(double seconds);

  // Whether a launch that nobody has waited for reads (unless `writes_only`) or writes the range.
  bool in_use(std::uint64_t address, std::uint64_t bytes, bool writes_only) const;
  // Whether the thread has launches that it has not waited for.
  bool has_pending(std::thread::id thread) const;

  // What this thread's wait comes to: the time until which it lasts and a hang, if there is one.
  struct Wait {
    Clock::time_point until;
    bool hangs = false;
    double hang_seconds = 0;
  };
  Wait begin_wait();

  // Share of the time since the last call in which the chip worked.
  int utilisation_percent();

 private:
  struct Pending {
    std::vector<Use> uses;
    bool hangs = false;
    double hang_seconds = 0;
  };

  void add_time(double cost_us);

  const Profile& profile_;
  std::uint64_t launches_ = 0;
  std::map<std::string, std::uint64_t> launches_of_net_;
  std::map<std::thread::id, Pending> pending_;
  Clock::time_point busy_until_;
  Clock::time_point measured_since_;
  Clock::duration busy_{};
};

}  // namespace tpuserve::simchip
