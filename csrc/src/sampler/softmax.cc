#include "softmax.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "tpuserve/half.h"

namespace tpuserve::sampler {

namespace {

constexpr std::size_t kLanes = 8;

}  // namespace

float scale_of(double temperature) {
  constexpr double kLargest = 1e30;
  return static_cast<float>(std::min(1.0 / temperature, kLargest));
}

float exp_nonpositive(float x) {
  // e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln 2 / 2; Cody-Waite reduction in two steps
  // and a Taylor polynomial of degree 7, whose error is below the rounding of a float there.
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693145752F;
  constexpr float kLn2Low = 1.42860677e-6F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLowest = -87.0F;
  const float clamped = std::max(x, kLowest);
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0F / 5040.0F;
  p = p * r + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  // The low bits of `shifted` are n: moved to the exponent they make 2^n.
  const std::uint32_t exponent = (float_to_bits(shifted) << 23) + 0x3f800000U;
  return x < kLowest ? 0.0F : p * bits_to_float(exponent);
}

float highest(const float* row, std::size_t count) {
  std::array<float, kLanes> best{};
  best.fill(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = row[i + lane] > best[lane] ? row[i + lane] : best[lane];
    }
  }
  for (; i < count; ++i) best[0] = std::max(best[0], row[i]);
  return *std::max_element(best.begin(), best.end());
}

double sum_of_exponentials(const float* row, std::size_t count, float top, float scale) {
  // Short float sums in lanes, then double: accurate, and still vectorisable.
  constexpr std::size_t kBlock = 512;
  double sum = 0;
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = std::min(count, begin + kBlock);
    std::array<float, kLanes> lanes{};
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += exp_nonpositive((row[i + lane] - top) * scale);
      }
    }
    for (; i < end; ++i) lanes[0] += exp_nonpositive((row[i] - top) * scale);
    for (const float lane : lanes) sum += static_cast<double>(lane);
  }
  return sum;
}

}  // namespace tpuserve::sampler
