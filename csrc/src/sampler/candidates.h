#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tpuserve/sampler/params.h"

namespace tpuserve::sampler {

struct Candidate {
  float logit;
  std::int32_t token;
};

// Higher logit first, then lower id.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The k best of a row, best first, without sorting the rest; fewer when fewer are finite.
std::vector<Candidate> best_of(const float* row, std::size_t count, std::size_t k);

// The tokens that top-k, top-p and min-p leave, in the order of ids; never none. At least one of
// the filters is on. `top` is the highest logit.
std::vector<Candidate> filter(const float* row, std::size_t count, float top,
                              const SamplingParams& params);

}  // namespace tpuserve::sampler
