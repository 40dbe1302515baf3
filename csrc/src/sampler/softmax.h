// Exponentials over rows of logits.
//
// Own code rather than libm's, for two reasons: the compiler vectorises it, and the same logits
// give the same tokens on every machine and C library.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tpuserve/half.h"

namespace tpuserve::sampler {

// 1 / temperature. Bounded, so that 0 * scale stays 0 for the coldest temperatures.
float scale_of(double temperature);

// e^x for x <= 0 within 2e-7 relative; 0 below -87.
inline float exp_nonpositive(float x) {
  // e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln 2 / 2; Cody-Waite reduction in two steps
  // and a Taylor polynomial of degree 7, whose error is below the rounding of a float there.
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693145752F;
  constexpr float kLn2Low = 1.42860677e-6F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLowest = -87.0F;
  const float clamped = x < kLowest ? kLowest : x;
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

// The unnormalised probabilities e^((row[i] - top) * scale) of a row whose highest value is `top`,
// in blocks: small enough for the stack, long enough to vectorise.
class Weights {
 public:
  static constexpr std::size_t kBlock = 512;
  using Block = std::array<float, kBlock>;

  Weights(const float* row, std::size_t count, float top, float scale);

  // Calls visit(index, weight) for each, in order.
  template <typename Visitor>
  void for_each(Visitor visit) const {
    Block weights;
    for (std::size_t begin = 0; begin < count_; begin += kBlock) {
      const std::size_t length = fill(begin, weights);
      for (std::size_t i = 0; i < length; ++i) visit(begin + i, weights[i]);
    }
  }

  // Always added in the same order.
  double sum() const { return total_; }
  // The index at which the running sum passes `goal`; the last with a weight if rounding leaves the
  // sum below.
  std::size_t index_at(double goal) const;

 private:
  // Returns how many weights the block has.
  std::size_t fill(std::size_t begin, Block& weights) const;

  const float* row_;
  std::size_t count_;
  float top_;
  float scale_;
  std::vector<double> sums_;  // of each block
  double total_ = 0;
};

}  // namespace tpuserve::sampler
