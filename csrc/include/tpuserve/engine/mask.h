// Attention masks, as bytes in the element type that a net takes. A visible column is 0; a hidden
// one is the number that the vendor's models were trained into: -10000 (-9984 in bfloat16, the
// nearest value that the demos use).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tpuserve/runtime/tensor.h"

namespace tpuserve::engine {

class Mask {
 public:
  // `of_ones`: hidden columns are 1, as in nets of 2023 that multiply the mask themselves. Throws
  // BmodelError for an element type that is no float.
  explicit Mask(runtime::DType dtype, bool of_ones = false);

  // A row for each sequence of a decode step: lengths[i] rows of its history are visible, those up
  // to `capacity` are not, the last column (the token itself) is.
  void decode(const std::vector<int>& lengths, int capacity);
  // A square: row i sees columns 0 to i.
  void causal(int rows);
  // `rows` new tokens behind `history` of `capacity` resident rows: row i sees columns 0 to
  // `history`, and of the new ones, which begin at column `capacity`, 0 to i.
  void behind(int rows, int history, int capacity);
  // Rows of `width` visible columns, of which hide() then hides some.
  void open(std::size_t rows, std::size_t width);
  void hide(std::size_t row, std::size_t begin, std::size_t end);

  const void* data() const { return bytes_.data(); }
  std::size_t size_bytes() const { return bytes_.size(); }

 private:
  void resize(std::size_t elements);
  void hide(std::size_t begin, std::size_t end);

  std::size_t width_ = 0;  // of open()
  std::size_t element_bytes_;
  std::uint32_t hidden_;  // bits of a hidden column
  std::vector<std::uint8_t> bytes_;
};

}  // namespace tpuserve::engine
