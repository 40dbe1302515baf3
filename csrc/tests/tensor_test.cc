#include "tpuserve/runtime/tensor.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "tpuserve/errors.h"

namespace tpuserve::runtime {
namespace {

TEST(TensorTest, ElementTypesHaveNamesAndSizes) {
  EXPECT_STREQ(name(DType::kBfloat16), "bfloat16");
  EXPECT_EQ(size_bytes(DType::kInt32), 4U);
  EXPECT_THROW(name(static_cast<DType>(9)), BmodelError);
  EXPECT_THROW(name(static_cast<DType>(-1)), BmodelError);
}

TEST(TensorTest, ShapesCompareCountAndPrint) {
  const Shape shape = {1, 64, 128};
  EXPECT_EQ(shape.elements(), 8192U);
  EXPECT_EQ(shape.to_string(), "[1, 64, 128]");
  EXPECT_EQ(shape, (Shape{1, 64, 128}));
  EXPECT_NE(shape, (Shape{1, 64}));
  EXPECT_NE(shape, (Shape{1, 64, 129}));
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), std::out_of_range);
}

TEST(TensorTest, SlicesStayInside) {
  const MemoryRef memory{1000, 64};
  const MemoryRef slice = memory.slice(16, 48);
  EXPECT_EQ(slice.address, 1016U);
  EXPECT_EQ(slice.size_bytes, 48U);
  EXPECT_THROW((void)memory.slice(16, 49), std::out_of_range);
  EXPECT_THROW((void)memory.slice(65, 0), std::out_of_range);
}

}  // namespace
}  // namespace tpuserve::runtime
