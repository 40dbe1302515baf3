#include "softmax.h"

#include <limits>

namespace tpuserve::sampler {

namespace {

constexpr std::size_t kLanes = 8;

double sum_of(const Weights::Block& weights, std::size_t length) {
  std::array<float, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += weights[i + lane];
  }
  for (; i < length; ++i) lanes[0] += weights[i];
  double sum = 0;
  for (const float lane : lanes) sum += static_cast<double>(lane);
  return sum;
}

// Where the running sum passes `goal`; the last weight if rounding leaves it below.
std::size_t index_in(const Weights::Block& weights, std::size_t length, double goal) {
  double sum = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < length; ++i) {
    if (weights[i] == 0.0F) continue;
    sum += static_cast<double>(weights[i]);
    last = i;
    if (sum > goal) break;
  }
  return last;
}

}  // namespace

float scale_of(double temperature) {
  constexpr double kLargest = 1e30;
  return static_cast<float>(std::min(1.0 / temperature, kLargest));
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

std::size_t Weights::fill(std::size_t begin, Block& weights) const {
  const std::size_t length = std::min(kBlock, count_ - begin);
  const float* row = row_ + begin;
  const float top = top_;
  const float scale = scale_;
  for (std::size_t i = 0; i < length; ++i) weights[i] = exp_nonpositive((row[i] - top) * scale);
  return length;
}

double Weights::sum() const {
  Block weights;
  double sum = 0;
  for (std::size_t begin = 0; begin < count_; begin += kBlock) {
    const std::size_t length = fill(begin, weights);
    sum += sum_of(weights, length);
  }
  return sum;
}

std::size_t Weights::index_at(double goal) const {
  Block weights;
  double sum = 0;
  for (std::size_t begin = 0; begin < count_; begin += kBlock) {
    const std::size_t length = fill(begin, weights);
    const double after = sum + sum_of(weights, length);
    if (after > goal) return begin + index_in(weights, length, goal - sum);
    sum = after;
  }
  std::size_t last = count_ - 1;
  while (last > 0 && exp_nonpositive((row_[last] - top_) * scale_) == 0.0F) --last;
  return last;
}

}  // namespace tpuserve::sampler
