#include "candidates.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "softmax.h"

namespace tpuserve::sampler {

namespace {

using Candidates = std::vector<Candidate>;

bool by_id(const Candidate& a, const Candidate& b) { return a.token < b.token; }

// Sums of weights by their leading bits. Positive floats order as their bits do, so a bin with a
// higher key holds higher weights.
class WeightHistogram {
 public:
  static constexpr std::size_t kBins = 2048;

  void add(std::uint32_t key, float weight) { sums_[key] += static_cast<double>(weight); }

  // Adds bins to `sum` from the highest key down while they stay below `goal`; returns the key of
  // the bin that reaches it, 0 when none does.
  std::uint32_t descend(double goal, double& sum) const {
    std::uint32_t key = kBins - 1;
    for (; key > 0 && sum + sums_[key] < goal; --key) sum += sums_[key];
    return key;
  }

 private:
  std::array<double, kBins> sums_{};
};

// The fewest best whose weights reach `share` of all, in the order of ids. Two histograms narrow
// the cut down to weights that agree in their leading 23 bits; only those are sorted.
Candidates nucleus(const float* row, std::size_t count, double share, float top, float scale) {
  constexpr unsigned kCoarse = 20;  // exponent and three bits of the fraction
  constexpr unsigned kFine = 9;     // eleven bits more
  constexpr std::uint32_t kFineMask = WeightHistogram::kBins - 1;
  const Weights weights(row, count, top, scale);
  const double goal = share * weights.sum();
  double sum = 0;
  WeightHistogram coarse;
  weights.for_each([&](std::size_t, float w) { coarse.add(float_to_bits(w) >> kCoarse, w); });
  const std::uint32_t coarse_cut = coarse.descend(goal, sum);
  WeightHistogram fine;
  weights.for_each([&](std::size_t, float w) {
    if (float_to_bits(w) >> kCoarse != coarse_cut) return;
    fine.add((float_to_bits(w) >> kFine) & kFineMask, w);
  });
  const std::uint32_t cut = (coarse_cut << (kCoarse - kFine)) | fine.descend(goal, sum);

  Candidates kept;
  Candidates border;
  weights.for_each([&](std::size_t i, float w) {
    const std::uint32_t key = float_to_bits(w) >> kFine;
    if (key < cut) return;
    (key > cut ? kept : border).push_back({row[i], static_cast<std::int32_t>(i)});
  });
  std::sort(border.begin(), border.end(), better);
  std::size_t taken = 0;
  while (taken < border.size() && (sum < goal || kept.size() + taken == 0)) {
    sum += static_cast<double>(exp_nonpositive((border[taken++].logit - top) * scale));
  }
  border.resize(taken);
  std::sort(border.begin(), border.end(), by_id);
  const auto middle = static_cast<std::ptrdiff_t>(kept.size());
  kept.insert(kept.end(), border.begin(), border.end());
  std::inplace_merge(kept.begin(), kept.begin() + middle, kept.end(), by_id);
  return kept;
}

// The same cut for candidates that are sorted, best first.
void cut_sorted(Candidates& sorted, double share, float top, float scale) {
  const auto weight = [&](const Candidate& candidate) {
    return static_cast<double>(exp_nonpositive((candidate.logit - top) * scale));
  };
  double total = 0;
  for (const Candidate& candidate : sorted) total += weight(candidate);
  double sum = 0;
  std::size_t kept = 0;
  while (kept < sorted.size() && sum < share * total) sum += weight(sorted[kept++]);
  sorted.resize(std::max(kept, std::size_t{1}));
}

Candidates all_of(const float* row, std::size_t count, float lowest) {
  Candidates result;
  for (std::size_t i = 0; i < count; ++i) {
    if (row[i] >= lowest) result.push_back({row[i], static_cast<std::int32_t>(i)});
  }
  return result;
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
  // min-p as a limit on logits: p >= m * p_best  <=>  (l - top) / T >= ln m.
  const double reach = params.min_p > 0 ? std::log(params.min_p) * params.temperature : 0;
  const float lowest = params.min_p > 0 ? top + static_cast<float>(reach) : -INFINITY;
  const auto k = static_cast<std::size_t>(params.top_k);

  Candidates candidates;
  if (k > 0 && k < count) {
    candidates = best_of(row, count, k);
    if (params.top_p < 1) cut_sorted(candidates, params.top_p, top, scale);
    std::sort(candidates.begin(), candidates.end(), by_id);
  } else if (params.top_p < 1) {
    candidates = nucleus(row, count, params.top_p, top, scale);
  } else {
    return all_of(row, count, lowest);
  }
  const auto hopeless = [lowest](const Candidate& candidate) { return candidate.logit < lowest; };
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), hopeless),
                   candidates.end());
  return candidates;
}

}  // namespace tpuserve::sampler
