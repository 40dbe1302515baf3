// Exponentials over rows of logits.
//
// Own code rather than libm's, for two reasons: the compiler vectorises it, and the same logits
// give the same tokens on every machine and C library.
#pragma once

#include <cstddef>

namespace tpuserve::sampler {

// 1 / temperature. Bounded, so that 0 * scale stays 0 for the coldest temperatures.
float scale_of(double temperature);

// e^x for x <= 0 within 2e-7 relative; 0 below -87.
float exp_nonpositive(float x);

// The highest value; -inf for a row of -inf. The row has no NaN.
float highest(const float* row, std::size_t count);

// Sum of e^((row[i] - top) * scale); `top` is the highest. Always summed in the same order.
double sum_of_exponentials(const float* row, std::size_t count, float top, float scale);

}  // namespace tpuserve::sampler
