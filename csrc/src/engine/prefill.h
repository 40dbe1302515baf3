#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kv_rows.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/mask.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// Tokens of one prompt that follow each other.
struct PrefillChunk {
  const std::int32_t* ids;
  int count;
  int position;  // of the first
};

// Runs prefill nets of any context of one bmodel. Owns what the contexts can share: the memory of
// hidden states, positions and mask. It lies apart from the nets' own, because that overlaps
// between the nets of a runtime: what one net leaves there the next may overwrite before it reads
// it.
class Prefill {
 public:
  Prefill(runtime::Chip& chip, const ModelNets& nets);

  // Fills rows [position, position + count) of `kv` and returns where the hidden states of all rows
  // that the nets compute will be: `count`, or more behind them where a static net pads. Position 0
  // runs the nets without history. Does not wait. A part that is not the first takes `states`, what
  // the part before it gave for the same tokens, in place of `ids`.
  runtime::MemoryRef launch(runtime::Bmodel& bmodel, const ModelNets& nets, const KvRows& kv,
                            const PrefillChunk& chunk, const std::vector<std::uint8_t>* states);

 private:
  // A chunk, and the rows of its launch: `count`, or what a static net was compiled for.
  struct Launch {
    int count;
    int position;
    int rows;
  };

  void embed(runtime::Bmodel& bmodel, const EmbeddingNet& embedding, const PrefillChunk& chunk);
  void upload_positions(const runtime::Port& port, const Launch& launch);
  void upload_mask(const Launch& launch);
  void launch_layer(runtime::Bmodel& bmodel, const LayerNets& nets, std::size_t layer,
                    const KvRows& kv, const Launch& chunk, runtime::MemoryRef states,
                    runtime::MemoryRef out_states);

  runtime::Chip& chip_;
  int rows_;  // the nets' maximum
  int context_length_;
  std::size_t state_bytes_;
  runtime::DeviceMemory states_a_;
  runtime::DeviceMemory states_b_;
  runtime::DeviceMemory positions_;
  std::optional<Mask> mask_;  // when the nets take one
  std::optional<runtime::DeviceMemory> mask_memory_;
  bool dynamic_;
  std::vector<std::int32_t> staging_;
};

}  // namespace tpuserve::engine
