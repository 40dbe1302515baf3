#include "kernels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "attention.h"
#include "tpuserve/half.h"

namespace tpuserve::simchip {

namespace {

void run_embedding(Launch& launch) {
  const Operand& ids = launch.inputs[0];
  const Operand& out = launch.outputs[0];
  launch.rows = elements_of(ids.shape);
  const std::uint64_t row_bytes = out.bytes / launch.rows;
  const unsigned char* id = launch.chip.memory.at(ids.address);
  unsigned char* to = launch.chip.memory.at(out.address);
  for (std::uint64_t row = 0; row < launch.rows; ++row) {
    const auto token = load<std::int32_t>(id + row * sizeof(std::int32_t));
    const bool known = token >= 0 && (launch.vocab_size == 0 || token < launch.vocab_size);
    if (!known) {
      // As the chip: zeros and no error.
      launch.rules.broken("unknown-id", "net " + launch.net.name + ": id " + std::to_string(token) +
                                            " of " + std::to_string(launch.vocab_size));
    }
    State state = known ? State{kStateMark, token, 0} : State{0, 0, 0};
    const Fault* fault = launch.chip.fault_of_token(token);
    if (fault != nullptr && fault->kind == FaultKind::kNan) {
      launch.chip.nan_injected = true;
      state.mark = kNanMark;
    } else if (fault != nullptr) {
      launch.fault = fault;
    }
    store(to + row * row_bytes, state, row_bytes);
  }
}

void store_float(unsigned char* to, int dtype, float value) {
  constexpr int kFloat32 = 0;
  constexpr int kFloat16 = 1;
  if (dtype == kFloat32) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const std::uint16_t bits = dtype == kFloat16 ? float_to_half(value) : float_to_bfloat(value);
  std::memcpy(to, &bits, sizeof bits);
}

void store_logits(unsigned char* to, int dtype, std::uint64_t next, std::uint64_t vocab_size) {
  const std::uint64_t step = element_bytes(dtype);
  store_float(to, dtype, kOtherLogits);
  // Each copy doubles what is filled.
  for (std::uint64_t filled = 1; filled < vocab_size; filled *= 2) {
    std::memcpy(to + filled * step, to, std::min(filled, vocab_size - filled) * step);
  }
  for (const float logit : kLogits) {
    store_float(to + next * step, dtype, logit);
    next = (next + 1) % vocab_size;
  }
}

void run_head(Launch& launch) {
  const Operand& in = launch.inputs[0];
  const Operand& out = launch.outputs[0];
  launch.rows = static_cast<std::uint64_t>(in.shape.dims[0]);
  const std::uint64_t state_bytes = in.bytes / launch.rows;
  const std::uint64_t out_bytes = out.bytes / launch.rows;
  const bool logits = elements_of(out.shape) > launch.rows;
  const auto vocab_size = static_cast<std::uint64_t>(launch.vocab_size);
  for (std::uint64_t row = 0; row < launch.rows; ++row) {
    const State state =
        load_state(launch, launch.chip.memory.at(in.address) + row * state_bytes, launch.layers);
    unsigned char* to = launch.chip.memory.at(out.address) + row * out_bytes;
    const bool nan = state.mark == kNanMark;
    const std::uint64_t next = nan ? 0 : state.sum % vocab_size;
    if (!logits) {
      const auto token = static_cast<std::int32_t>(next);
      std::memcpy(to, &token, sizeof token);
    } else if (nan) {
      std::memset(to, 0xff, out_bytes);
    } else {
      store_logits(to, out.dtype, next, vocab_size);
    }
  }
}

// The best of each row; the first where several are.
void run_greedy_head(Launch& launch) {
  const Operand& in = launch.inputs[0];
  launch.rows = static_cast<std::uint64_t>(in.shape.dims[0]);
  const std::uint64_t columns = elements_of(in.shape) / launch.rows;
  const unsigned char* logits = launch.chip.memory.at(in.address);
  unsigned char* tokens = launch.chip.memory.at(launch.outputs[0].address);
  for (std::uint64_t row = 0; row < launch.rows; ++row) {
    std::int32_t best = 0;
    float highest = -std::numeric_limits<float>::infinity();
    for (std::uint64_t column = 0; column < columns; ++column) {
      const auto logit = load<float>(logits + (row * columns + column) * sizeof(float));
      if (logit > highest) {
        highest = logit;
        best = static_cast<std::int32_t>(column);
      }
    }
    std::memcpy(tokens + row * sizeof best, &best, sizeof best);
  }
}

}  // namespace

void run(Launch& launch) {
  switch (launch.net.kind) {
    case NetKind::kEmbedding:
      return run_embedding(launch);
    case NetKind::kBlock:
    case NetKind::kBlockKv:
      return run_prefill(launch);
    case NetKind::kBlockCache:
      return run_decode(launch);
    case NetKind::kHead:
      return run_head(launch);
    case NetKind::kGreedyHead:
      return run_greedy_head(launch);
  }
}

}  // namespace tpuserve::simchip
