#include "tpuserve/engine/mask.h"

#include <cstring>
#include <string>

#include "tpuserve/errors.h"

namespace tpuserve::engine {

namespace {

std::uint32_t hidden_bits(runtime::DType dtype, bool of_ones) {
  switch (dtype) {
    case runtime::DType::kFloat16:
      return of_ones ? 0x3c00 : 0xf0e2;
    case runtime::DType::kBfloat16:
      return of_ones ? 0x3f80 : 0xc61c;
    case runtime::DType::kFloat32:
      return of_ones ? 0x3f800000 : 0xc61c4000;
    default:
      throw BmodelError(std::string("a mask of ") + name(dtype) + " is not known");
  }
}

}  // namespace

Mask::Mask(runtime::DType dtype, bool of_ones)
    : element_bytes_(runtime::size_bytes(dtype)), hidden_(hidden_bits(dtype, of_ones)) {}

void Mask::resize(std::size_t elements) { bytes_.assign(elements * element_bytes_, 0); }

void Mask::hide(std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) {
    std::memcpy(bytes_.data() + i * element_bytes_, &hidden_, element_bytes_);
  }
}

void Mask::decode(const std::vector<int>& lengths, int capacity) {
  const std::size_t width = static_cast<std::size_t>(capacity) + 1;
  resize(lengths.size() * width);
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    hide(row * width + static_cast<std::size_t>(lengths[row]), (row + 1) * width - 1);
  }
}

void Mask::causal(int rows) {
  const auto n = static_cast<std::size_t>(rows);
  resize(n * n);
  for (std::size_t row = 0; row < n; ++row) hide(row * n + row + 1, (row + 1) * n);
}

void Mask::behind(int rows, int history, int capacity) {
  const auto n = static_cast<std::size_t>(rows);
  const auto first_new = static_cast<std::size_t>(capacity);
  const std::size_t width = first_new + n;
  resize(n * width);
  for (std::size_t row = 0; row < n; ++row) {
    hide(row * width + static_cast<std::size_t>(history), row * width + first_new);
    hide(row * width + first_new + row + 1, (row + 1) * width);
  }
}

void Mask::open(std::size_t rows, std::size_t width) {
  width_ = width;
  resize(rows * width);
}

void Mask::hide(std::size_t row, std::size_t begin, std::size_t end) {
  hide(row * width_ + begin, row * width_ + end);
}

}  // namespace tpuserve::engine
