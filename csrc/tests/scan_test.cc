#include "sampler/scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>

namespace tpuserve::sampler {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values of a coarse grid, so that many are equal.
std::vector<float> row_of(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> grid(-40, 40);
  std::vector<float> row(count);
  for (float& value : row) value = static_cast<float>(grid(random)) / 4;
  return row;
}

TEST(ScanTest, AgreesWithThePlainLoops) {
  for (const std::size_t count : {1U, 7U, 63U, 64U, 65U, 1000U, 4096U}) {
    const std::vector<float> row = row_of(count, static_cast<unsigned>(count));
    const float top = *std::max_element(row.begin(), row.end());
    EXPECT_EQ(highest(row.data(), count), top);
    EXPECT_EQ(extent_of(row.data(), count).highest, top);
    EXPECT_FALSE(extent_of(row.data(), count).has_nan);
    EXPECT_EQ(index_of(row.data(), count, top),
              static_cast<std::size_t>(std::find(row.begin(), row.end(), top) - row.begin()));
    for (const float lowest : {-kInfinity, -3.0F, 9.75F, 10.0F, 11.0F}) {
      std::vector<std::int32_t> expected;
      for (std::size_t i = 0; i < count; ++i) {
        if (row[i] >= lowest) expected.push_back(static_cast<std::int32_t>(i));
      }
      std::vector<std::int32_t> found;
      for (const Candidate& each : at_least(row.data(), count, lowest)) {
        EXPECT_EQ(each.logit, row[static_cast<std::size_t>(each.token)]);
        found.push_back(each.token);
      }
      EXPECT_EQ(found, expected);
      EXPECT_EQ(count_at_least(row.data(), count, lowest), expected.size());
    }
  }
}

TEST(ScanTest, SeesNanWhereverItIs) {
  for (const std::size_t place : {0U, 6U, 64U, 99U}) {
    std::vector<float> row = row_of(100, 3);
    EXPECT_FALSE(has_nan(row.data(), row.size()));
    row[place] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(has_nan(row.data(), row.size()));
    EXPECT_TRUE(extent_of(row.data(), row.size()).has_nan);
  }
}

TEST(ScanTest, TheBoundKeepsTheBest) {
  const std::vector<float> row = row_of(5000, 9);
  std::vector<float> sorted = row;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (const std::size_t k : {1U, 5U, 40U, 78U}) {
    const float bound = bound_of_best(row.data(), row.size(), k);
    EXPECT_LE(bound, sorted[k - 1]);
    EXPECT_GT(bound, -kInfinity);
  }
  EXPECT_EQ(bound_of_best(row.data(), row.size(), 79), -kInfinity);
  EXPECT_EQ(bound_of_best(row.data(), 63, 1), -kInfinity);
}

}  // namespace
}  // namespace tpuserve::sampler
