// block_i and block_kv_i: the rows of a chunk, after the rows of history that the latter is given.
#include <cstring>
#include <string>

#include "attention.h"

namespace tpuserve::simchip {

namespace {

// Inputs and outputs as bytes: the outputs may lie where inputs were.
struct Chunk {
  std::vector<State> states;
  std::vector<KvRow> keys;
  std::vector<KvRow> values;
  bool nan = false;
};

Chunk read_chunk(Launch& launch) {
  const Operand& states = launch.inputs[0];
  const Operand& positions = launch.inputs[1];
  const std::uint64_t rows = launch.rows;
  const std::uint64_t state_bytes = states.bytes / rows;
  const unsigned char* state = launch.chip.memory.at(states.address);
  const unsigned char* position = launch.chip.memory.at(positions.address);
  Chunk chunk;
  for (std::uint64_t i = 0; i < rows; ++i) {
    chunk.states.push_back(load_state(launch, state + i * state_bytes, launch.net.layer));
    chunk.nan = chunk.nan || chunk.states.back().mark == kNanMark;
    chunk.keys.push_back(key_row(launch, chunk.states.back()));
    chunk.values.push_back(value_row(launch, chunk.states.back(),
                                     load<std::int32_t>(position + i * sizeof(std::int32_t))));
  }
  return chunk;
}

const unsigned char* bytes_of(const KvRow& row) {
  return reinterpret_cast<const unsigned char*>(&row);
}

Attention see_history(Launch& launch) {
  Attention seen(launch);
  if (launch.net.kind != NetKind::kBlockKv) return seen;
  constexpr std::size_t kHistoryK = 2;
  constexpr std::size_t kHistoryV = 3;
  const Operand& k = launch.inputs[kHistoryK];
  const Operand& v = launch.inputs[kHistoryV];
  if (k.address != k.own || v.address != v.own) {
    launch.rules.broken("history-by-address", "net " + launch.net.name +
                                                  ": its history must be in its own memory; what "
                                                  "is there is used");
  }
  const auto rows = static_cast<std::uint64_t>(k.shape.dims[1]);
  const std::uint64_t row_bytes = k.bytes / rows;
  for (std::uint64_t row = 0; row < rows; ++row) {
    seen.add(launch.chip.memory.at(k.own) + row * row_bytes,
             launch.chip.memory.at(v.own) + row * row_bytes, row, /*visible=*/true);
  }
  launch.kv_bytes = k.bytes + v.bytes;
  return seen;
}

// Row i sees the history and rows 0 to i.
std::vector<State> attend(Launch& launch, const Chunk& chunk) {
  Attention seen = see_history(launch);
  if (chunk.nan) seen.add_nan();
  std::vector<State> states;
  for (std::size_t i = 0; i < chunk.states.size(); ++i) {
    seen.add(bytes_of(chunk.keys[i]), bytes_of(chunk.values[i]), i, /*visible=*/true);
    states.push_back(next_state(launch, chunk.states[i], seen));
  }
  return states;
}

// Row i sees what row i of the mask says.
std::vector<State> attend_masked(Launch& launch, const Chunk& chunk) {
  constexpr std::size_t kMask = 2;
  MaskReader mask(launch, launch.inputs[kMask]);
  std::vector<State> states;
  const std::size_t rows = chunk.states.size();
  for (std::size_t i = 0; i < rows; ++i) {
    Attention seen(launch);
    for (std::size_t j = 0; j < rows; ++j) {
      seen.add(bytes_of(chunk.keys[j]), bytes_of(chunk.values[j]), j, mask.visible(i * rows + j));
    }
    states.push_back(next_state(launch, chunk.states[i], seen));
  }
  return states;
}

template <typename Row>
void write_rows(Launch& launch, std::size_t output, const std::vector<Row>& rows) {
  const Operand& target = launch.outputs[output];
  const std::uint64_t row_bytes = target.bytes / rows.size();
  unsigned char* to = launch.chip.memory.at(target.address);
  for (std::size_t i = 0; i < rows.size(); ++i) store(to + i * row_bytes, rows[i], row_bytes);
}

}  // namespace

void run_prefill(Launch& launch) {
  launch.rows = static_cast<std::uint64_t>(launch.inputs[0].shape.dims[1]);
  const Chunk chunk = read_chunk(launch);
  const bool masked = launch.net.kind == NetKind::kBlock && launch.inputs.size() == 3;
  const std::vector<State> states = masked ? attend_masked(launch, chunk) : attend(launch, chunk);
  write_rows(launch, 0, states);
  write_rows(launch, 1, chunk.keys);
  write_rows(launch, 2, chunk.values);
}

}  // namespace tpuserve::simchip
