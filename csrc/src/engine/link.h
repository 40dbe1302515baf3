#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

namespace tpuserve::engine {

// Hidden states on their way from one chip to the next, through host memory, in order.
class Link {
 public:
  void put(std::vector<std::uint8_t> states);
  // Waits. False when the sender has failed and nothing more will come.
  bool take(std::vector<std::uint8_t>& states);
  // The sender's last word in a call that went wrong.
  void fail();
  // Before a call: nothing is left over from one that failed.
  void clear();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<std::uint8_t>> states_;
  bool failed_ = false;
};

}  // namespace tpuserve::engine
