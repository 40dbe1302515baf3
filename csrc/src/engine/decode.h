#pragma once

#include <cstdint>
#include <vector>

#include "kv_rows.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/mask.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// The decode nets of one context: one token in, its hidden state out, its KV row written.
class Decode {
 public:
  Decode(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets);

  // Runs token `id` at position `length`, the first free row of `kv`. Returns where the last
  // layer's hidden state will be; does not wait.
  runtime::MemoryRef launch(const KvRows& kv, std::int32_t id, int length);

 private:
  // A launch of one layer's net in one shape variant; the rows of k and v are filled in per step.
  struct Step {
    const runtime::Net* net;
    std::vector<runtime::Tensor> inputs;
    std::vector<runtime::Tensor> outputs;
  };
  struct Variant {
    int capacity;  // rows of history that it sees
    std::vector<Step> steps;
  };

  Variant& smallest_for(int length);

  runtime::Chip& chip_;
  runtime::Bmodel& bmodel_;
  runtime::DeviceMemory id_;
  Step embedding_;
  std::vector<Variant> variants_;  // ascending capacity
  Mask mask_;
  std::vector<std::int32_t> positions_;
};

}  // namespace tpuserve::engine
