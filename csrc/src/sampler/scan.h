// Passes over whole rows of logits. A vocabulary has 150,000 of them and a step up to 32 rows, so
// that these loops decide what sampling costs.
#pragma once

#include <cstddef>
#include <vector>

#include "candidates.h"

// Compiled for wider vectors too; the loader picks. No form may round differently from another, or
// tokens would depend on the machine; the build forbids fused multiply-adds for that reason.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TPUSERVE_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TPUSERVE_WIDE
#endif

namespace tpuserve::sampler {

// The highest value; -inf for a row of -inf. The row has no NaN.
float highest(const float* row, std::size_t count);

bool has_nan(const float* row, std::size_t count);

// Both, in one pass over memory. With NaN the highest value means nothing.
struct Extent {
  float highest;
  bool has_nan;
};
Extent extent_of(const float* row, std::size_t count);

// The first place of the highest value.
std::size_t index_of(const float* row, std::size_t count, float value);

// All that are at least `lowest`, in the order of ids. Fast where they are few.
std::vector<Candidate> at_least(const float* row, std::size_t count, float lowest);

std::size_t count_at_least(const float* row, std::size_t count, float lowest);

// A value that at least k of the row reach, and hardly more than those; -inf for want of better.
float bound_of_best(const float* row, std::size_t count, std::size_t k);

}  // namespace tpuserve::sampler
