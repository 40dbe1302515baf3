#include "tpuserve/half.h"

namespace tpuserve {

std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = float_to_bits(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);   // NaN
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // rounds to inf
  if (magnitude < 0x38800000U) {
    // Subnormal or zero: adding 0.5 puts the bits that remain, correctly rounded, at the low end.
    const float shifted = bits_to_float(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (float_to_bits(shifted) - float_to_bits(0.5F)));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  magnitude += 0xc8000fffU + odd;  // rebase the exponent by -112, round half to even
  return static_cast<std::uint16_t>(sign | (magnitude >> 13));
}

std::uint16_t float_to_bfloat(float value) {
  const std::uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  const std::uint32_t odd = (bits >> 16) & 1U;
  return static_cast<std::uint16_t>((bits + 0x7fffU + odd) >> 16);
}

void halfs_to_floats(const std::uint16_t* source, float* target, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) target[i] = half_to_float(source[i]);
}

void bfloats_to_floats(const std::uint16_t* source, float* target, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) target[i] = bfloat_to_float(source[i]);
}

}  // namespace tpuserve
