#include "tpuserve/engine/mask.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tpuserve/errors.h"
#include "tpuserve/half.h"

namespace tpuserve::engine {
namespace {

using runtime::DType;

std::vector<float> values(const Mask& mask, DType dtype) {
  const std::size_t width = runtime::size_bytes(dtype);
  std::vector<float> result;
  for (std::size_t i = 0; i < mask.size_bytes() / width; ++i) {
    const auto* element = static_cast<const std::uint8_t*>(mask.data()) + i * width;
    std::uint16_t narrow = 0;
    float value = 0;
    std::memcpy(&narrow, element, sizeof narrow);
    if (dtype == DType::kFloat32) {
      std::memcpy(&value, element, sizeof value);
    } else {
      value = dtype == DType::kFloat16 ? half_to_float(narrow) : bfloat_to_float(narrow);
    }
    result.push_back(value);
  }
  return result;
}

TEST(MaskTest, ADecodeStepSeesItsHistoryAndItself) {
  Mask mask(DType::kFloat16);
  mask.decode({2}, 4);
  EXPECT_EQ(values(mask, DType::kFloat16), (std::vector<float>{0, 0, -10000, -10000, 0}));
  mask.decode({4}, 4);
  EXPECT_EQ(values(mask, DType::kFloat16), (std::vector<float>{0, 0, 0, 0, 0}));
}

TEST(MaskTest, EverySequenceOfAStepHasItsOwnRow) {
  Mask mask(DType::kFloat32);
  mask.decode({1, 0, 2}, 2);
  EXPECT_EQ(values(mask, DType::kFloat32),
            (std::vector<float>{0, -10000, 0, -10000, -10000, 0, 0, 0, 0}));
}

TEST(MaskTest, ACausalRowSeesNothingAfterIt) {
  Mask mask(DType::kBfloat16);
  mask.causal(3);
  EXPECT_EQ(values(mask, DType::kBfloat16),
            (std::vector<float>{0, -9984, -9984, 0, 0, -9984, 0, 0, 0}));
}

TEST(MaskTest, NewRowsSeeTheHistoryAndThoseBeforeThem) {
  Mask mask(DType::kFloat32);
  mask.behind(2, 1, 3);
  EXPECT_EQ(values(mask, DType::kFloat32),
            (std::vector<float>{0, -10000, -10000, 0, -10000, 0, -10000, -10000, 0, 0}));
}

TEST(MaskTest, FloatNetsHideWithMinusTenThousand) {
  Mask mask(DType::kFloat32);
  mask.decode({0}, 1);
  EXPECT_EQ(values(mask, DType::kFloat32), (std::vector<float>{-10000, 0}));
}

TEST(MaskTest, IntegersAreNoMask) { EXPECT_THROW(Mask(DType::kInt8), BmodelError); }

}  // namespace
}  // namespace tpuserve::engine
