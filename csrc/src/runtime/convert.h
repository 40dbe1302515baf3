// Between our values and the vendor's structs.
#pragma once

#include "tpuserve/runtime/tensor.h"
#include "vendor_abi.h"

namespace tpuserve::runtime {

// `place`: of the chip, among several that share each layer.
inline abi::Memory to_abi(const MemoryRef& memory, std::size_t place) {
  abi::Memory result{};
  result.address = memory.address_on(place);
  result.size = memory.size_bytes;
  return result;
}

inline MemoryRef from_abi(const abi::Memory& memory) { return {memory.address, memory.size, {}}; }

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

inline abi::Tensor to_abi(const Tensor& tensor, std::size_t place) {
  abi::Tensor result{};
  result.dtype = static_cast<int>(tensor.dtype);
  result.shape = to_abi(tensor.shape);
  result.memory = to_abi(tensor.memory, place);
  return result;
}

}  // namespace tpuserve::runtime
