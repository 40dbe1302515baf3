// What the nets compute; rows.h has the rule.
#pragma once

#include <cstdint>
#include <vector>

#include "chip.h"
#include "loaded_net.h"
#include "rules.h"

namespace tpuserve::simchip {

// A tensor of a launch. `own` is the net's own memory of it, `address` what was given.
struct Operand {
  std::uint64_t address;
  std::uint64_t own;
  int dtype;
  abi::Shape shape;
  std::uint64_t bytes;  // of the shape
};

struct Launch {
  Chip& chip;
  Rules& rules;
  const NetDescription& net;
  int vocab_size;  // 0 when not known
  int layers;      // of the bmodel
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;

  // Filled in: memory beside inputs and outputs, rows of work, bytes of KV that were read, and of
  // KV that lay elsewhere than in the net's own memory and was copied there.
  std::vector<Use> uses;
  std::uint64_t rows = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t foreign_kv_bytes = 0;
  const Fault* fault = nullptr;  // that a token brought about; NaN is in the outputs already
};

// Memory ranges must have been checked.
void run(Launch& launch);

}  // namespace tpuserve::simchip
