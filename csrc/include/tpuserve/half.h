// Half-precision conversions (IEEE 754 binary16, and bfloat16 = the upper half of binary32).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tpuserve {

inline float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Exact, subnormals, infinities and NaN included. Branch-free: a multiplication by 2^112 rebases
// the exponent (it also normalises subnormals); what was infinite or NaN keeps an exponent of ones.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffU) << 13;
  const float rebased = bits_to_float(magnitude) * bits_to_float(0x77800000U);
  const std::uint32_t special = (half & 0x7c00U) == 0x7c00U ? 0x7f800000U : 0U;
  return bits_to_float(sign | float_to_bits(rebased) | special);
}

inline float bfloat_to_float(std::uint16_t bfloat) {
  return bits_to_float(static_cast<std::uint32_t>(bfloat) << 16);
}

// Round to nearest, ties to even; too large becomes infinite, NaN stays NaN.
std::uint16_t float_to_half(float value);
std::uint16_t float_to_bfloat(float value);

// Whole rows; simple enough loops for the compiler to vectorise.
void halfs_to_floats(const std::uint16_t* source, float* target, std::size_t count);
void bfloats_to_floats(const std::uint16_t* source, float* target, std::size_t count);

}  // namespace tpuserve
