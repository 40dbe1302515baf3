#include "tpuserve/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tpuserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(HalfTest, KnowsTheValuesOfTheStandard) {
  EXPECT_EQ(half_to_float(0x0000), 0.0F);
  EXPECT_EQ(half_to_float(0x3c00), 1.0F);
  EXPECT_EQ(half_to_float(0xc000), -2.0F);
  EXPECT_EQ(half_to_float(0x7bff), 65504.0F);
  EXPECT_EQ(half_to_float(0x0400), std::ldexp(1.0F, -14));
  EXPECT_EQ(half_to_float(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(half_to_float(0x03ff), std::ldexp(1023.0F, -24));
  EXPECT_EQ(half_to_float(0x7c00), kInfinity);
  EXPECT_EQ(half_to_float(0xfc00), -kInfinity);
  EXPECT_TRUE(std::isnan(half_to_float(0x7e01)));
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  EXPECT_EQ(half_to_float(0xf0e2), -10000.0F);
}

TEST(HalfTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (unsigned bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value)))) << bits;
    } else {
      EXPECT_EQ(float_to_half(value), half);
    }
  }
}

TEST(HalfTest, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F), 0x3c00);      // half way: even stays
  EXPECT_EQ(float_to_half(1.0F + 3 * 0x1p-11F), 0x3c02);  // half way: odd moves up
  EXPECT_EQ(float_to_half(1.0F + 1.01F * 0x1p-11F), 0x3c01);
  EXPECT_EQ(float_to_half(65519.0F), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0F), 0x7c00);
  EXPECT_EQ(float_to_half(0x1p-25F), 0x0000);  // half of the least subnormal
  EXPECT_EQ(float_to_half(1.01F * 0x1p-25F), 0x0001);
  EXPECT_EQ(float_to_half(-kInfinity), 0xfc00);
}

TEST(BfloatTest, IsTheUpperHalfOfAFloat) {
  EXPECT_EQ(bfloat_to_float(0x3f80), 1.0F);
  EXPECT_EQ(bfloat_to_float(0xc61c), -9984.0F);
  EXPECT_EQ(float_to_bfloat(1.0F + 0x1p-8F), 0x3f80);
  EXPECT_EQ(float_to_bfloat(1.0F + 3 * 0x1p-8F), 0x3f82);
  EXPECT_EQ(float_to_bfloat(kInfinity), 0x7f80);
  EXPECT_TRUE(std::isnan(bfloat_to_float(float_to_bfloat(std::nanf("")))));
}

TEST(BfloatTest, EveryBfloatSurvivesTheWayThroughFloat) {
  for (unsigned bits = 0; bits <= 0xffff; ++bits) {
    const auto bfloat = static_cast<std::uint16_t>(bits);
    const float value = bfloat_to_float(bfloat);
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_bfloat(value), bfloat);
  }
}

TEST(HalfTest, RowsAreConvertedElementByElement) {
  const std::vector<std::uint16_t> halfs = {0x3c00, 0x0001, 0xfc00, 0x4200, 0xc000};
  std::vector<float> floats(halfs.size());
  halfs_to_floats(halfs.data(), floats.data(), halfs.size());
  for (std::size_t i = 0; i < halfs.size(); ++i) EXPECT_EQ(floats[i], half_to_float(halfs[i]));
  bfloats_to_floats(halfs.data(), floats.data(), halfs.size());
  for (std::size_t i = 0; i < halfs.size(); ++i) EXPECT_EQ(floats[i], bfloat_to_float(halfs[i]));
}

}  // namespace
}  // namespace tpuserve
