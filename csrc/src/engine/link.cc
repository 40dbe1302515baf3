#include "link.h"

#include <utility>

namespace tpuserve::engine {

void Link::put(std::vector<std::uint8_t> states) {
  const std::lock_guard<std::mutex> lock(mutex_);
  states_.push_back(std::move(states));
  changed_.notify_one();
}

bool Link::take(std::vector<std::uint8_t>& states) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return failed_ || !states_.empty(); });
  if (states_.empty()) return false;
  states = std::move(states_.front());
  states_.pop_front();
  return true;
}

void Link::fail() {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
  changed_.notify_one();
}

void Link::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  states_.clear();
  failed_ = false;
}

}  // namespace tpuserve::engine
