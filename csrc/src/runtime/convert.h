// Between our values and the vendor's structs.
#pragma once

#include "tpuserve/runtime/tensor.h"
#include "vendor_abi.h"

namespace tpuserve::runtime {

inline abi::Memory to_abi(MemoryRef memory) {
  abi::Memory result{};
  result.address = memory.address;
  result.size = memory.size_bytes;
  return result;
}

inline MemoryRef from_abi(const abi::Memory& memory) { return {memory.address, memory.size}; }

inline abi::Shape to_abi(const Shape& shape) {
  abi::Shape result{};
  result.rank = shape.rank();
  for (int axis = 0; axis < shape.rank(); ++axis) result.dims[axis] = shape[axis];
  return result;
}

inline Shape from_abi(const abi::Shape& shape) {
  Shape result;
  for (int axis = 0; axis < shape.rank; ++axis) result.append(shape.dims[axis]);
  return result;
}

inline abi::Tensor to_abi(const Tensor& tensor) {
  abi::Tensor result{};
  result.dtype = static_cast<int>(tensor.dtype);
  result.shape = to_abi(tensor.shape);
  result.memory = to_abi(tensor.memory);
  return result;
}

}  // namespace tpuserve::runtime
