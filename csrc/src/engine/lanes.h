#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tpuserve::engine {

// A thread for each of several chips: what is sent to a chip and waited for there must come from
// one thread. A single lane is the caller's own thread.
class Lanes {
 public:
  explicit Lanes(std::size_t count);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  // Calls work(i) on every lane i at once and waits for all. Rethrows what the lowest lane threw.
  void run(const std::function<void(std::size_t)>& work);

 private:
  void serve(std::size_t lane);

  std::size_t count_;
  std::mutex mutex_;
  std::condition_variable started_;
  std::condition_variable finished_;
  const std::function<void(std::size_t)>* work_ = nullptr;  // null: the threads end
  unsigned round_ = 0;
  std::size_t running_ = 0;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

}  // namespace tpuserve::engine
