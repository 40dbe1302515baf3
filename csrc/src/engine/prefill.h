#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "cross_attention.h"
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

// What a chunk needs where its slot shows images; null elsewhere.
struct ChunkImages {
  CrossAttention* attention = nullptr;
  const ImageSlot* slot = nullptr;
};

// Called with each layer of the part as soon as it is launched, and where its hidden states will
// be.
using LayerTap = std::function<void(std::size_t layer, runtime::MemoryRef states)>;

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
                            const PrefillChunk& chunk, const std::vector<std::uint8_t>* states,
                            const ChunkImages& images, const LayerTap& tap);

 private:
  // A chunk, and the rows of its launch: `count`, or what a static net was compiled for.
  struct Launch {
    int count;
    int position;
    int rows;

    bool later() const { return position > 0; }
  };
  // The mask of one kind of nets, where it is an input.
  struct MaskInput {
    MaskInput(runtime::Chip& chip, const runtime::Port& port, bool of_ones);

    Mask mask;
    runtime::DeviceMemory memory;
  };
  // The nets of a prompt's first chunk, or those behind resident rows.
  struct Kind {
    Kind(runtime::Chip& chip, const runtime::Net& net);

    int rows;  // the nets' maximum
    bool dynamic;
    std::optional<MaskInput> mask;
  };

  void embed(runtime::Bmodel& bmodel, const EmbeddingNet& embedding, const PrefillChunk& chunk);
  // Hidden states of `rows` tokens by the table, as many as the launch computes.
  void look_up(const EmbeddingTable& table, const PrefillChunk& chunk, int rows);
  void upload_positions(const runtime::Port& port, const Launch& launch);
  void upload_mask(Kind& kind, const Launch& launch);
  // Rows before a later chunk that its nets are given.
  int history_rows(const Launch& launch) const;
  void add_history(const runtime::ShapeVariant& variant, const KvRows& kv, std::size_t layer,
                   const Launch& launch, std::vector<runtime::Tensor>& inputs);
  void launch_layer(runtime::Bmodel& bmodel, const LayerNets& nets, std::size_t layer,
                    const KvRows& kv, const Launch& chunk, runtime::MemoryRef states,
                    runtime::MemoryRef out_states);

  runtime::Chip& chip_;
  int max_history_;
  int context_length_;
  Kind first_;
  std::optional<Kind> later_;
  std::size_t state_bytes_;
  runtime::DeviceMemory states_a_;
  runtime::DeviceMemory states_b_;
  runtime::DeviceMemory positions_;
  std::vector<std::int32_t> staging_;
  std::vector<std::uint8_t> host_states_;  // with a table
};

}  // namespace tpuserve::engine
