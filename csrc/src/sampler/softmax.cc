#include "softmax.h"

#include "scan.h"

namespace tpuserve::sampler {

namespace {

constexpr std::size_t kLanes = 8;

TPUSERVE_WIDE void exponentials(const float* row, std::size_t length, float top, float scale,
                                float* weights) {
  for (std::size_t i = 0; i < length; ++i) weights[i] = exp_nonpositive((row[i] - top) * scale);
}

TPUSERVE_WIDE double sum_of(const Weights::Block& weights, std::size_t length) {
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

Weights::Weights(const float* row, std::size_t count, float top, float scale)
    : row_(row), count_(count), top_(top), scale_(scale) {
  Block weights;
  sums_.reserve(count / kBlock + 1);
  for (std::size_t begin = 0; begin < count_; begin += kBlock) {
    const std::size_t length = fill(begin, weights);
    sums_.push_back(sum_of(weights, length));
    total_ += sums_.back();
  }
}

std::size_t Weights::fill(std::size_t begin, Block& weights) const {
  const std::size_t length = std::min(kBlock, count_ - begin);
  exponentials(row_ + begin, length, top_, scale_, weights.data());
  return length;
}

std::size_t Weights::index_at(double goal) const {
  double sum = 0;
  for (std::size_t block = 0; block < sums_.size(); ++block) {
    const double after = sum + sums_[block];
    if (after > goal) {
      Block weights;
      const std::size_t length = fill(block * kBlock, weights);
      return block * kBlock + index_in(weights, length, goal - sum);
    }
    sum = after;
  }
  std::size_t last = count_ - 1;
  while (last > 0 && exp_nonpositive((row_[last] - top_) * scale_) == 0.0F) --last;
  return last;
}

}  // namespace tpuserve::sampler
