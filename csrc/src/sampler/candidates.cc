#include "candidates.h"

#include <algorithm>
#include <cmath>

#include "softmax.h"

namespace tpuserve::sampler {

namespace {

using Candidates = std::vector<Candidate>;

// Candidates that sort themselves as far as they are read.
class LazilySorted {
 public:
  explicit LazilySorted(Candidates& candidates) : candidates_(candidates) {}

  const Candidate& operator[](std::size_t i) {
    if (i >= sorted_) sort_more(i);
    return candidates_[i];
  }

 private:
  void sort_more(std::size_t i) {
    const std::size_t end = std::min(candidates_.size(), std::max(2 * i, std::size_t{128}));
    const auto begin = candidates_.begin();
    const auto from = begin + static_cast<std::ptrdiff_t>(sorted_);
    const auto to = begin + static_cast<std::ptrdiff_t>(end);
    if (end < candidates_.size()) std::nth_element(from, to, candidates_.end(), better);
    std::sort(from, to, better);
    sorted_ = end;
  }

  Candidates& candidates_;
  std::size_t sorted_ = 0;
};

Candidates all_above(const float* row, std::size_t count, float lowest) {
  Candidates result;
  for (std::size_t i = 0; i < count; ++i) {
    if (row[i] >= lowest) result.push_back({row[i], static_cast<std::int32_t>(i)});
  }
  return result;
}

// Cuts after the fewest best whose weights reach `share` of `total`.
void cut_top_p(Candidates& candidates, double share, double total, float top, float scale) {
  LazilySorted sorted(candidates);
  double sum = 0;
  std::size_t kept = 0;
  while (kept < candidates.size() && sum < share * total) {
    sum += static_cast<double>(exp_nonpositive((sorted[kept].logit - top) * scale));
    ++kept;
  }
  candidates.resize(std::max(kept, std::size_t{1}));
}

}  // namespace

Candidates best_of(const float* row, std::size_t count, std::size_t k) {
  // A heap with the worst of the best on top: nearly all of a long row fails its first comparison.
  Candidates best;
  best.reserve(k);
  for (std::size_t i = 0; i < count; ++i) {
    const Candidate candidate{row[i], static_cast<std::int32_t>(i)};
    if (best.size() < k) {
      best.push_back(candidate);
      std::push_heap(best.begin(), best.end(), better);
    } else if (candidate.logit > best.front().logit) {  // equal logit: the lower id is in already
      std::pop_heap(best.begin(), best.end(), better);
      best.back() = candidate;
      std::push_heap(best.begin(), best.end(), better);
    }
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

Candidates filter(const float* row, std::size_t count, const SamplingParams& params) {
  const float scale = scale_of(params.temperature);
  const float top = highest(row, count);
  const auto k = static_cast<std::size_t>(params.top_k);
  // min-p as a limit on logits: p >= m * p_best  <=>  (l - top) / T >= ln m.
  const double reach = params.min_p > 0 ? std::log(params.min_p) * params.temperature : 0;
  const float lowest = params.min_p > 0 ? top + static_cast<float>(reach) : -INFINITY;

  Candidates candidates;
  if (k > 0 && k < count) {
    candidates = best_of(row, count, k);
    if (params.top_p < 1) {
      double total = 0;
      for (const Candidate& candidate : candidates) {
        total += static_cast<double>(exp_nonpositive((candidate.logit - top) * scale));
      }
      cut_top_p(candidates, params.top_p, total, top, scale);
    }
  } else if (params.top_p < 1) {
    const double total = sum_of_exponentials(row, count, top, scale);
    // Tokens below (1 - p) / count of the mass have less than 1 - p together: not one is needed.
    // One tenth of that leaves room for rounding.
    const double needless = 0.1 * (1 - params.top_p) / static_cast<double>(count) * total;
    const auto needed = static_cast<float>(std::log(needless) * params.temperature);
    candidates = all_above(row, count, top + needed);
    cut_top_p(candidates, params.top_p, total, top, scale);
  } else {
    candidates = all_above(row, count, lowest);
    std::sort(candidates.begin(), candidates.end(), better);
  }
  while (candidates.size() > 1 && candidates.back().logit < lowest) candidates.pop_back();
  return candidates;
}

}  // namespace tpuserve::sampler
