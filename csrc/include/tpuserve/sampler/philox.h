// Philox4x32-10, a counter-based random number generator: Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011. The same key and counter give the same numbers everywhere, in any
// order.
#pragma once

#include <array>
#include <cstdint>

namespace tpuserve::sampler {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

inline PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  constexpr std::uint64_t kMultiplier0 = 0xd2511f53;
  constexpr std::uint64_t kMultiplier1 = 0xcd9e8d57;
  constexpr std::uint32_t kWeyl0 = 0x9e3779b9;
  constexpr std::uint32_t kWeyl1 = 0xbb67ae85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    const auto high0 = static_cast<std::uint32_t>(product0 >> 32);
    const auto high1 = static_cast<std::uint32_t>(product1 >> 32);
    counter = {high1 ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               high0 ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// Uniform in [0, 1) with 53 bits: number `index` of the stream of `seed`.
inline double uniform(std::uint64_t seed, std::uint64_t index) {
  const PhiloxCounter counter = {static_cast<std::uint32_t>(index),
                                 static_cast<std::uint32_t>(index >> 32), 0, 0};
  const PhiloxKey key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const PhiloxCounter bits = philox4x32_10(counter, key);
  const std::uint64_t wide = (static_cast<std::uint64_t>(bits[0] >> 5) << 26) | (bits[1] >> 6);
  return static_cast<double>(wide) * 0x1p-53;
}

}  // namespace tpuserve::sampler
