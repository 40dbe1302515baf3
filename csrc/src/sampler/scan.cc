#include "scan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>

namespace tpuserve::sampler {

namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kBlock = 64;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

TPUSERVE_WIDE void block_maxima(const float* row, std::size_t blocks, float* maxima) {
  for (std::size_t block = 0; block < blocks; ++block) {
    const float* values = row + block * kBlock;
    std::array<float, kLanes> best{};
    for (std::size_t lane = 0; lane < kLanes; ++lane) best[lane] = values[lane];
    for (std::size_t i = kLanes; i < kBlock; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
      }
    }
    float top = best[0];
    for (std::size_t lane = 1; lane < kLanes; ++lane) top = best[lane] > top ? best[lane] : top;
    maxima[block] = top;
  }
}

// How many of a whole block are at least `lowest`.
TPUSERVE_WIDE int reaching(const float* block, float lowest) {
  int count = 0;
  for (std::size_t i = 0; i < kBlock; ++i) count += block[i] >= lowest ? 1 : 0;
  return count;
}

}  // namespace

TPUSERVE_WIDE float highest(const float* row, std::size_t count) {
  std::array<float, kLanes> best{};
  best.fill(kLowest);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = row[i + lane] > best[lane] ? row[i + lane] : best[lane];
    }
  }
  for (; i < count; ++i) best[0] = std::max(best[0], row[i]);
  return *std::max_element(best.begin(), best.end());
}

TPUSERVE_WIDE bool has_nan(const float* row, std::size_t count) {
  int nans = 0;
  for (std::size_t i = 0; i < count; ++i) nans |= row[i] != row[i] ? 1 : 0;
  return nans != 0;
}

Extent extent_of(const float* row, std::size_t count) {
  // One loop for both would not be vectorised; the second finds its part in the nearest cache.
  constexpr std::size_t kPart = 2048;
  Extent extent{kLowest, false};
  for (std::size_t begin = 0; begin < count; begin += kPart) {
    const std::size_t length = std::min(kPart, count - begin);
    extent.has_nan = has_nan(row + begin, length) || extent.has_nan;
    extent.highest = std::max(extent.highest, highest(row + begin, length));
  }
  return extent;
}

std::size_t index_of(const float* row, std::size_t count, float value) {
  std::size_t begin = 0;
  while (begin + kBlock <= count && reaching(row + begin, value) == 0) begin += kBlock;
  return static_cast<std::size_t>(std::find(row + begin, row + count, value) - row);
}

TPUSERVE_WIDE std::size_t count_at_least(const float* row, std::size_t count, float lowest) {
  int found = 0;
  for (std::size_t i = 0; i < count; ++i) found += row[i] >= lowest ? 1 : 0;
  return static_cast<std::size_t>(found);
}

std::vector<Candidate> at_least(const float* row, std::size_t count, float lowest) {
  std::vector<Candidate> found;
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, count);
    if (end - begin == kBlock && reaching(row + begin, lowest) == 0) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (row[i] >= lowest) found.push_back({row[i], static_cast<std::int32_t>(i)});
    }
  }
  return found;
}

float bound_of_best(const float* row, std::size_t count, std::size_t k) {
  const std::size_t blocks = count / kBlock;
  if (k == 0 || k > blocks) return kLowest;
  // The k-th highest of the blocks' maxima: k values at least are as high.
  std::vector<float> maxima(blocks);
  block_maxima(row, blocks, maxima.data());
  const auto kth = maxima.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(maxima.begin(), kth, maxima.end(), std::greater<>());
  return *kth;
}

}  // namespace tpuserve::sampler
