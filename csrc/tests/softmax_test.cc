#include "sampler/softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "sampler/scan.h"

namespace tpuserve::sampler {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(SoftmaxTest, ExponentialIsAccurateOverItsRange) {
  for (double x = 0; x > -87; x -= 0.00917) {
    const auto rounded = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(rounded));
    EXPECT_NEAR(static_cast<double>(exp_nonpositive(rounded)) / exact, 1.0, 2e-7) << x;
  }
}

TEST(SoftmaxTest, ExponentialKeepsItsEnds) {
  EXPECT_EQ(exp_nonpositive(0.0F), 1.0F);
  EXPECT_EQ(exp_nonpositive(-87.1F), 0.0F);
  EXPECT_EQ(exp_nonpositive(-kInfinity), 0.0F);
}

TEST(SoftmaxTest, HighestLooksEverywhere) {
  for (std::size_t count = 1; count < 40; ++count) {
    for (std::size_t where = 0; where < count; ++where) {
      std::vector<float> row(count, -3.0F);
      row[where] = 2.5F;
      EXPECT_EQ(highest(row.data(), count), 2.5F);
    }
  }
  const std::vector<float> nothing(9, -kInfinity);
  EXPECT_EQ(highest(nothing.data(), nothing.size()), -kInfinity);
}

TEST(SoftmaxTest, SumCountsEveryElementOnce) {
  for (const std::size_t count : {1U, 7U, 8U, 511U, 512U, 513U, 5000U}) {
    const std::vector<float> row(count, 4.0F);
    EXPECT_EQ(Weights(row.data(), count, 4.0F, 1.0F).sum(), static_cast<double>(count));
  }
  const std::vector<float> row = {1.0F, 0.0F, -kInfinity};
  EXPECT_NEAR(Weights(row.data(), 3, 1.0F, 2.0F).sum(), 1.0 + std::exp(-2.0), 1e-7);
}

TEST(SoftmaxTest, TheRunningSumIsFoundInItsBlock) {
  const std::vector<float> row(1300, 0.0F);
  const Weights weights(row.data(), row.size(), 0.0F, 1.0F);
  for (const std::size_t index : {0U, 1U, 511U, 512U, 1023U, 1299U}) {
    EXPECT_EQ(weights.index_at(static_cast<double>(index) + 0.5), index);
    EXPECT_EQ(weights.index_at(static_cast<double>(index)), index);
  }
}

TEST(SoftmaxTest, AGoalThatRoundingPutsOutOfReachGivesTheLastWithAWeight) {
  std::vector<float> row(1300, -kInfinity);
  row[3] = 0.0F;
  row[700] = 0.0F;
  EXPECT_EQ(Weights(row.data(), row.size(), 0.0F, 1.0F).index_at(2.0), 700U);
}

TEST(SoftmaxTest, TheColdestTemperatureKeepsTheBestAlone) {
  const std::vector<float> row = {1.0F, 0.999F};
  EXPECT_EQ(Weights(row.data(), 2, 1.0F, scale_of(1e-300)).sum(), 1.0);
}

}  // namespace
}  // namespace tpuserve::sampler
