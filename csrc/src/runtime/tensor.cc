#include "tpuserve/runtime/tensor.h"

#include <algorithm>
#include <stdexcept>

#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

struct DTypeTraits {
  const char* name;
  std::size_t size_bytes;
};

const DTypeTraits& traits(DType dtype) {
  static constexpr std::array<DTypeTraits, 9> kTraits = {{{"float32", 4},
                                                          {"float16", 2},
                                                          {"int8", 1},
                                                          {"uint8", 1},
                                                          {"int16", 2},
                                                          {"uint16", 2},
                                                          {"int32", 4},
                                                          {"uint32", 4},
                                                          {"bfloat16", 2}}};
  const auto index = static_cast<std::size_t>(dtype);
  if (index >= kTraits.size()) {
    throw BmodelError("element type " + std::to_string(index) + " is not known");
  }
  return kTraits[index];
}

}  // namespace

const char* name(DType dtype) { return traits(dtype).name; }

std::size_t size_bytes(DType dtype) { return traits(dtype).size_bytes; }

Shape::Shape(std::initializer_list<int> dims) {
  for (const int size : dims) append(size);
}

void Shape::append(int size) {
  if (rank_ == kMaxRank) throw std::out_of_range("a shape has at most 8 dimensions");
  dims_[static_cast<std::size_t>(rank_++)] = size;
}

std::size_t Shape::elements() const {
  std::size_t count = 1;
  for (int axis = 0; axis < rank_; ++axis) count *= static_cast<std::size_t>((*this)[axis]);
  return count;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string((*this)[axis]);
  }
  return text + "]";
}

bool operator==(const Shape& a, const Shape& b) {
  return a.rank_ == b.rank_ &&
         std::equal(a.dims_.begin(), a.dims_.begin() + a.rank_, b.dims_.begin());
}

MemoryRef MemoryRef::slice(std::size_t offset_bytes, std::size_t length_bytes) const {
  if (offset_bytes > size_bytes || length_bytes > size_bytes - offset_bytes) {
    throw std::out_of_range("bytes [" + std::to_string(offset_bytes) + ", " +
                            std::to_string(offset_bytes + length_bytes) +
                            ") lie outside of a device memory of " + std::to_string(size_bytes) +
                            " bytes");
  }
  MemoryRef part = *this;
  part.address += offset_bytes;
  part.size_bytes = static_cast<std::uint32_t>(length_bytes);
  for (std::uint64_t& other : part.others) {
    if (other != 0) other += offset_bytes;
  }
  return part;
}

}  // namespace tpuserve::runtime
