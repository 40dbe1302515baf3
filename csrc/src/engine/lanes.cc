#include "lanes.h"

namespace tpuserve::engine {

Lanes::Lanes(std::size_t count) : count_(count) {
  if (count == 1) return;
  for (std::size_t lane = 0; lane < count; ++lane) {
    threads_.emplace_back([this, lane] { serve(lane); });
  }
}

Lanes::~Lanes() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = nullptr;
    ++round_;
  }
  started_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Lanes::run(const std::function<void(std::size_t)>& work) {
  if (threads_.empty()) return work(0);
  std::unique_lock<std::mutex> lock(mutex_);
  work_ = &work;
  errors_.assign(count_, nullptr);
  running_ = count_;
  ++round_;
  started_.notify_all();
  finished_.wait(lock, [this] { return running_ == 0; });
  for (const std::exception_ptr& error : errors_) {
    if (error != nullptr) std::rethrow_exception(error);
  }
}

void Lanes::serve(std::size_t lane) {
  unsigned seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    started_.wait(lock, [this, seen] { return round_ != seen; });
    seen = round_;
    if (work_ == nullptr) return;
    const std::function<void(std::size_t)>& work = *work_;
    lock.unlock();
    std::exception_ptr error;
    try {
      work(lane);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    errors_[lane] = error;
    if (--running_ == 0) finished_.notify_one();
  }
}

}  // namespace tpuserve::engine
