#pragma once

#include <cstdint>
#include <vector>

#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/engine.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// The lm_head net of one context: a hidden state in, logits or a token out.
class Head {
 public:
  Head(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets);

  // `state` is one row on the chip. Does not wait.
  void launch(runtime::MemoryRef state);
  // Waits, then reads the result of the last launch as row `row` of `rows`.
  void read(const HeadRows& rows, std::size_t row);

 private:
  void read_logits(float* target);

  runtime::Chip& chip_;
  runtime::Bmodel& bmodel_;
  const runtime::Net& net_;
  HeadKind kind_;
  runtime::DeviceMemory result_;
  std::vector<runtime::Tensor> inputs_;
  std::vector<runtime::Tensor> outputs_;
  std::vector<std::uint16_t> narrow_;  // logits of 16 bits on their way to float
};

}  // namespace tpuserve::engine
