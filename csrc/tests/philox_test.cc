#include "tpuserve/sampler/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace tpuserve::sampler {
namespace {

// Known answers that the authors publish with their Random123 library.
TEST(PhiloxTest, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformUses53BitsOfTheFirstTwoWords) {
  // 0x6627e8d5 >> 5 and 0xe169c58d >> 6 of the first published answer.
  const double expected =
      (static_cast<double>(0x6627e8d5U >> 5) * 0x1p26 + static_cast<double>(0xe169c58dU >> 6)) *
      0x1p-53;
  EXPECT_EQ(uniform(0, 0), expected);
}

TEST(PhiloxTest, UniformIsSpreadOverTheUnitInterval) {
  double sum = 0;
  double squares = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    const double u = uniform(42, static_cast<std::uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 0.01);
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 0.01);
}

TEST(PhiloxTest, SeedAndIndexCountInAllTheirBits) {
  std::set<double> values;
  for (const std::uint64_t seed : {0ULL, 1ULL, 1ULL << 32, 1ULL << 63}) {
    for (const std::uint64_t index : {0ULL, 1ULL, 1ULL << 32}) values.insert(uniform(seed, index));
  }
  EXPECT_EQ(values.size(), 12U);
}

}  // namespace
}  // namespace tpuserve::sampler
