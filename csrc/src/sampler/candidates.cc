#include "candidates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "scan.h"
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

struct Weighted {
  Candidate candidate;
  float weight;
};

// The fewest best whose weights reach `goal`, in the order of ids, of all whose weight is at least
// `least`; nothing when these do not reach it. `each(visit)` hands them over in the order of ids.
// Two histograms narrow the cut down to weights that agree in their leading 23 bits; only those are
// sorted.
template <typename Each>
std::optional<Candidates> cut(const Each& each, double goal, float least) {
  constexpr unsigned kCoarse = 20;  // exponent and three bits of the fraction
  constexpr unsigned kFine = 9;     // eleven bits more
  constexpr std::uint32_t kFineMask = WeightHistogram::kBins - 1;
  double sum = 0;
  WeightHistogram coarse;
  each([&](const Weighted& one) { coarse.add(float_to_bits(one.weight) >> kCoarse, one.weight); });
  const std::uint32_t coarse_cut = coarse.descend(goal, sum);
  if (coarse_cut < float_to_bits(least) >> kCoarse) return std::nullopt;
  WeightHistogram fine;
  each([&](const Weighted& one) {
    const std::uint32_t bits = float_to_bits(one.weight);
    if (bits >> kCoarse == coarse_cut) fine.add((bits >> kFine) & kFineMask, one.weight);
  });
  const std::uint32_t lowest = (coarse_cut << (kCoarse - kFine)) | fine.descend(goal, sum);

  Candidates kept;
  std::vector<Weighted> border;
  each([&](const Weighted& one) {
    const std::uint32_t key = float_to_bits(one.weight) >> kFine;
    if (key > lowest) kept.push_back(one.candidate);
    if (key == lowest) border.push_back(one);
  });
  std::sort(border.begin(), border.end(),
            [](const Weighted& a, const Weighted& b) { return better(a.candidate, b.candidate); });
  const auto middle = static_cast<std::ptrdiff_t>(kept.size());
  for (const Weighted& one : border) {
    if (sum >= goal && !kept.empty()) break;
    sum += static_cast<double>(one.weight);
    kept.push_back(one.candidate);
  }
  std::sort(kept.begin() + middle, kept.end(), by_id);
  std::inplace_merge(kept.begin(), kept.begin() + middle, kept.end(), by_id);
  return kept;
}

// The fewest best whose weights reach `share` of all, in the order of ids. They are mostly few: who
// is far below the best is looked at only if the nearer ones do not suffice.
Candidates nucleus(const float* row, std::size_t count, double share, float top, float scale) {
  constexpr double kMargin = 0.01;    // the weight decides, not the logit that it asks for
  constexpr std::size_t kCrowd = 16;  // a share of the row from which on lists do not pay
  const Weights weights(row, count, top, scale);
  const double goal = share * weights.sum();
  for (const float least : {0x1p-4F, 0x1p-8F, 0x1p-13F}) {
    const double reach =
        (std::log(static_cast<double>(least)) - kMargin) / static_cast<double>(scale);
    const float lowest = top + static_cast<float>(reach);
    if (count_at_least(row, count, lowest) > count / kCrowd) break;
    std::vector<Weighted> near;
    for (const Candidate& candidate : at_least(row, count, lowest)) {
      const float weight = exp_nonpositive((candidate.logit - top) * scale);
      if (weight >= least) near.push_back({candidate, weight});
    }
    const auto each = [&near](const auto& visit) {
      std::for_each(near.begin(), near.end(), visit);
    };
    std::optional<Candidates> found = cut(each, goal, least);
    if (found.has_value()) return *std::move(found);
  }
  const auto all = [&](const auto& visit) {
    weights.for_each([&](std::size_t i, float weight) {
      visit(Weighted{{row[i], static_cast<std::int32_t>(i)}, weight});
    });
  };
  return *cut(all, goal, 0);
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

}  // namespace

Candidates best_of(const float* row, std::size_t count, std::size_t k) {
  // Logits of -inf, nearly all behind a mask, are never drawn.
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  Candidates best = at_least(row, count, std::max(bound_of_best(row, count, k), kLowest));
  const auto kth = best.begin() + static_cast<std::ptrdiff_t>(std::min(k, best.size()));
  std::partial_sort(best.begin(), kth, best.end(), better);
  best.erase(kth, best.end());
  return best;
}

Candidates filter(const float* row, std::size_t count, float top, const SamplingParams& params) {
  const float scale = scale_of(params.temperature);
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
    return at_least(row, count, lowest);
  }
  const auto hopeless = [lowest](const Candidate& candidate) { return candidate.logit < lowest; };
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), hopeless),
                   candidates.end());
  return candidates;
}

}  // namespace tpuserve::sampler
