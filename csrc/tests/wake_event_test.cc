#include "runtime/wake_event.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace tpuserve::runtime {
namespace {

constexpr long kSecondNs = 999'999'999;

TEST(WakeEventTest, ASignalBeforeTheWaitIsNotLost) {
  WakeEvent event;
  const std::uint32_t seen = event.count();
  event.signal();
  const auto begin = std::chrono::steady_clock::now();
  event.wait(seen, kSecondNs);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(900));
}

TEST(WakeEventTest, ASignalEndsTheWaitOfAnotherThread) {
  WakeEvent event;
  const std::uint32_t seen = event.count();
  std::thread waiter([&] {
    while (event.count() == seen) event.wait(seen, kSecondNs);
  });
  event.signal();
  waiter.join();
  EXPECT_EQ(event.count(), seen + 1);
}

TEST(WakeEventTest, AWaitEndsByItself) {
  WakeEvent event;
  event.wait(event.count(), 1'000'000);
  EXPECT_EQ(event.count(), 0U);
}

}  // namespace
}  // namespace tpuserve::runtime
