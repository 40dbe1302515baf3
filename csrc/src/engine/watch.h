#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// A slot whose hidden states somebody wants to see. Holds what the chosen layers put out for the
// tokens of the last prefill or decode of the slot. The parts of a model may fill their own layers
// at the same time.
class Watch {
 public:
  // `layers`: ascending. `state_bytes`: hidden state of one token.
  Watch(std::vector<int> layers, std::size_t state_bytes);

  std::size_t layers() const { return layers_.size(); }
  std::size_t rows() const { return rows_; }
  std::size_t state_bytes() const { return state_bytes_; }
  // [layers, rows, state_bytes] bytes.
  const std::vector<std::uint8_t>& data() const { return data_; }

  // Forgets what it holds; the next call computes `rows` tokens.
  void begin(std::size_t rows);
  // Copies the rows behind `first_row` of what a layer has put out, if it is one of the chosen.
  // Waits for the launches before.
  void take(runtime::Chip& chip, int layer, runtime::MemoryRef states, std::size_t first_row);

 private:
  std::vector<int> layers_;
  std::size_t state_bytes_;
  std::size_t rows_ = 0;
  std::vector<std::uint8_t> data_;
};

}  // namespace tpuserve::engine
