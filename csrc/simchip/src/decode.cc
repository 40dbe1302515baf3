// block_cache_i: one token for each row; row r belongs to slot r, whose K and V are a pair of
// inputs. The net puts the new row behind the history, at row L of the variant's length L, and that
// of every slot below the number of rows, whether it decodes or not.
#include <cstring>
#include <string>

#include "attention.h"

namespace tpuserve::simchip {

namespace {

constexpr std::size_t kMask = 2;
constexpr std::size_t kFirstHistory = 3;

// A slot's history, K or V, in the net's own memory.
struct History {
  unsigned char* rows;
  std::uint64_t length;
  std::uint64_t row_bytes;

  unsigned char* row(std::uint64_t index) const { return rows + index * row_bytes; }
};

// Given elsewhere, all of it is copied to the net's own memory first.
History own_history(Launch& launch, const Operand& input) {
  Memory& memory = launch.chip.memory;
  if (input.address != input.own) {
    std::memmove(memory.at(input.own), memory.at(input.address), input.bytes);
    launch.foreign_kv_bytes += input.bytes;
    launch.uses.push_back({input.own, input.bytes, true});
  }
  const auto length = static_cast<std::uint64_t>(input.shape.dims[1]);
  return {memory.at(input.own), length, input.bytes / length};
}

// Row L: the new row merges there before attention.
void write_scratch(Launch& launch, const Operand& input, const History& history, const KvRow& row) {
  store(history.row(history.length), row, history.row_bytes);
  launch.uses.push_back({input.own + input.bytes, history.row_bytes, true});
}

State decode_row(Launch& launch, MaskReader& mask, std::uint64_t row, const State& before,
                 const History& k, const History& v) {
  Attention seen(launch);
  const std::uint64_t columns = k.length + 1;
  for (std::uint64_t j = 0; j < columns; ++j) {
    seen.add(k.row(j), v.row(j), j, mask.visible(row * columns + j));
  }
  return next_state(launch, before, seen);
}

}  // namespace

void run_decode(Launch& launch) {
  Memory& memory = launch.chip.memory;
  const Operand& states = launch.inputs[0];
  launch.rows = static_cast<std::uint64_t>(states.shape.dims[0]);
  const std::uint64_t state_bytes = states.bytes / launch.rows;
  const unsigned char* positions = memory.at(launch.inputs[1].address);
  MaskReader mask(launch, launch.inputs[kMask]);
  std::vector<State> after;
  for (std::uint64_t slot = 0; slot < launch.net.slots(); ++slot) {
    const Operand& k_input = launch.inputs[kFirstHistory + 2 * slot];
    const Operand& v_input = launch.inputs[kFirstHistory + 2 * slot + 1];
    const History k = own_history(launch, k_input);
    const History v = own_history(launch, v_input);
    unsigned char* k_out = memory.at(launch.outputs[1 + 2 * slot].address);
    unsigned char* v_out = memory.at(launch.outputs[2 + 2 * slot].address);
    if (slot >= launch.rows) {
      // Tensor lists of all variants are the same: these outputs are a slice of the history.
      std::memmove(k_out, k.row(0), k.row_bytes);
      std::memmove(v_out, v.row(0), v.row_bytes);
      continue;
    }
    const State before =
        load_state(launch, memory.at(states.address) + slot * state_bytes, launch.net.layer);
    const KvRow key = key_row(launch, before);
    const KvRow value =
        value_row(launch, before, load<std::int32_t>(positions + slot * sizeof(std::int32_t)));
    write_scratch(launch, k_input, k, key);
    write_scratch(launch, v_input, v, value);
    after.push_back(decode_row(launch, mask, slot, before, k, v));
    store(k_out, key, k.row_bytes);
    store(v_out, value, v.row_bytes);
    launch.kv_bytes += k_input.bytes + v_input.bytes;
  }
  const Operand& out = launch.outputs[0];
  for (std::uint64_t row = 0; row < after.size(); ++row) {
    store(memory.at(out.address) + row * state_bytes, after[row], state_bytes);
  }
}

}  // namespace tpuserve::simchip
