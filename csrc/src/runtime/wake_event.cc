#include "wake_event.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace tpuserve::runtime {

static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

void WakeEvent::signal() {
  count_.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst) == 0) return;
  syscall(SYS_futex, &count_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void WakeEvent::wait(std::uint32_t seen, long longest_ns) {
  const timespec longest{0, longest_ns};
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  // The kernel compares the count again, so a signal between the poll and here is not lost.
  syscall(SYS_futex, &count_, FUTEX_WAIT_PRIVATE, seen, &longest, nullptr, 0);
  waiting_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace tpuserve::runtime
