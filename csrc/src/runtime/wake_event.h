#pragma once

#include <atomic>
#include <cstdint>

namespace tpuserve::runtime {

// Counts signals; threads wait for the count to leave a value that they have seen. A signal that
// nobody waits for costs an increment. Linux only (futex).
class WakeEvent {
 public:
  std::uint32_t count() const { return count_.load(std::memory_order_seq_cst); }
  void signal();
  // Returns when the count is no longer `seen`, or after the time limit, or early for no reason.
  void wait(std::uint32_t seen, long longest_ns);

 private:
  std::atomic<std::uint32_t> count_{0};
  std::atomic<std::uint32_t> waiting_{0};
};

}  // namespace tpuserve::runtime
