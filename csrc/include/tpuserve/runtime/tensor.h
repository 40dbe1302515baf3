// Values that describe tensors on a chip: element type, shape, memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace tpuserve::runtime {

// Numbered as the vendor numbers them, so that a conversion is a cast.
enum class DType : int {
  kFloat32 = 0,
  kFloat16 = 1,
  kInt8 = 2,
  kUint8 = 3,
  kInt16 = 4,
  kUint16 = 5,
  kInt32 = 6,
  kUint32 = 7,
  kBfloat16 = 8,
};

// numpy-like name, e.g. "float16". Throws BmodelError for a number outside the enumeration.
const char* name(DType dtype);
std::size_t size_bytes(DType dtype);

class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<int> dims);

  int rank() const { return rank_; }
  int operator[](int axis) const { return dims_[static_cast<std::size_t>(axis)]; }
  void set(int axis, int size) { dims_[static_cast<std::size_t>(axis)] = size; }
  void append(int size);
  std::size_t elements() const;
  std::string to_string() const;  // "[1, 64, 128]"

  friend bool operator==(const Shape& a, const Shape& b);
  friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

 private:
  int rank_ = 0;
  std::array<int, kMaxRank> dims_{};
};

// A range of a chip's memory; owns nothing. Sizes are 32-bit because the vendor's descriptor is.
// Where several chips share each layer, one range stands for as many, of equal size, on all of
// them.
struct MemoryRef {
  static constexpr std::size_t kMostChips = 8;

  std::uint64_t address = 0;  // on the first chip
  std::uint32_t size_bytes = 0;
  std::array<std::uint64_t, kMostChips - 1> others{};  // addresses on the other chips, 0 for none

  std::uint64_t address_on(std::size_t place) const {
    return place == 0 ? address : others[place - 1];
  }

  // The range [offset, offset + size) of this one. Throws std::out_of_range past its end.
  MemoryRef slice(std::size_t offset_bytes, std::size_t length_bytes) const;
};

struct Tensor {
  DType dtype = DType::kFloat32;
  Shape shape;
  MemoryRef memory;
};

}  // namespace tpuserve::runtime
