#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/engine.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// The lm_head net of one context, and greedy_head where that draws: hidden states in, logits or
// tokens out.
class Head {
 public:
  Head(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets);

  // `states` are `rows` rows on the chip: 1, or those of a decode variant. Does not wait.
  void launch(runtime::MemoryRef states, int rows);
  // Waits, then reads row `source` of the last launch as row `target` of `rows`.
  void read(const HeadRows& rows, std::size_t target, std::size_t source);

 private:
  void launch_greedy(int rows);
  void read_logits(float* target, std::size_t source);

  runtime::Chip& chip_;
  runtime::Bmodel& bmodel_;
  RowsNet net_;
  HeadKind kind_;
  std::size_t width_;  // elements of a row of results
  runtime::DType dtype_;
  runtime::DeviceMemory result_;
  RowsNet greedy_;
  std::optional<runtime::DeviceMemory> tokens_;  // of greedy_head
  std::vector<std::uint16_t> narrow_;            // logits of 16 bits on their way to float
};

}  // namespace tpuserve::engine
