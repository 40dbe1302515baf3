// Finds out what the nets of a bmodel are, by their names and shapes.
#pragma once

#include <map>
#include <vector>

#include "tpuserve/engine/model_spec.h"
#include "tpuserve/runtime/bmodel.h"

namespace tpuserve::engine {

class EmbeddingTable;

// One shape variant of an embedding net: ids [1, rows] to hidden states [1, rows, hidden].
struct EmbeddingNet {
  const runtime::Net* net = nullptr;
  const runtime::ShapeVariant* variant = nullptr;
  int rows = 0;
};

// A net with a shape variant for each number of rows that it computes at once.
struct RowsNet {
  const runtime::Net* net = nullptr;
  std::map<int, const runtime::ShapeVariant*> by_rows;

  const runtime::ShapeVariant& widest() const { return *by_rows.rbegin()->second; }
};

// A layer that attends to images. Without images it is left out.
struct CrossNets {
  const runtime::Net* image = nullptr;    // states of an image to its keys and values
  const runtime::Net* prefill = nullptr;  // of a chunk, wherever it begins
  RowsNet decode;                         // one token of each sequence
};

struct LayerNets {
  std::vector<CrossNets> crossing;        // the layers before this one that attend to images
  const runtime::Net* prefill = nullptr;  // a prompt's first chunk, or a shared prefix
  const runtime::Net* history = nullptr;  // a later chunk; null when the bmodel has none
  const runtime::Net* decode = nullptr;   // one token of each sequence
};

// A bmodel holds a model, or a part of one: a range of its layers, the first part with the
// embedding and the last with the head.
struct PartRole {
  bool first = true;
  bool last = true;
  // Of a first part: takes the place of its embedding nets; null where those are used.
  const EmbeddingTable* table = nullptr;
  // Of a last part: its greedy_head draws.
  bool greedy = false;

  bool has_embedding_nets() const { return first && table == nullptr; }
};

// What the nets of one bmodel are. Pointers lead into the nets that were given to `discover`.
struct ModelNets {
  // Of a part that is not the last, the head's fields say nothing; `layers` counts the part's own.
  ModelSpec spec;
  PartRole role;
  int first_layer = 0;             // the number in the names of layers[0]
  int prefill_rows = 0;            // tokens that the prefill nets were compiled for
  int history_rows = 0;            // those that the nets of later chunks were compiled for, or 0
  EmbeddingNet prefill_embedding;  // where the role has such nets
  EmbeddingNet history_embedding;  // the same net unless there is one for later chunks
  RowsNet decode_embedding;        // as well: ids [rows, 1] to hidden states [rows, 1, hidden]
  std::vector<LayerNets> layers;
  const runtime::Net* vit = nullptr;  // pixels to states of an image
  // Indices of the decode nets' shape variants, in the order of spec.decode_variants; the same for
  // all layers. The last is the largest: it has all rows and the whole context.
  std::vector<std::size_t> decode_variants;
  RowsNet head;    // of the last part only: hidden states [rows, hidden]; one row is among them
  RowsNet greedy;  // logits [rows, vocabulary] to tokens; empty unless the role has it draw
};

// Where tensors are found in a layer's nets.
namespace port {
constexpr std::size_t kStates = 0;
constexpr std::size_t kPositions = 1;
constexpr std::size_t kMask = 2;  // decode, and prefill with a mask input
constexpr std::size_t kOutStates = 0;
constexpr std::size_t kOutK = 1;
constexpr std::size_t kOutV = 2;

// Later chunks: K and V of the rows before them come last, behind a mask where that is an input.
constexpr std::size_t kUnmaskedHistory = 4;  // inputs
constexpr std::size_t kMaskedHistory = 5;
inline std::size_t history_k(const runtime::ShapeVariant& variant) {
  return variant.inputs.size() - 2;
}
inline std::size_t history_v(const runtime::ShapeVariant& variant) {
  return variant.inputs.size() - 1;
}

// Decode nets have a history, [1, length, kv_heads, head_dim], and a new row for every slot.
constexpr std::size_t decode_history_k(std::size_t slot) { return 3 + 2 * slot; }
constexpr std::size_t decode_history_v(std::size_t slot) { return 4 + 2 * slot; }
constexpr std::size_t decode_k(std::size_t slot) { return 1 + 2 * slot; }
constexpr std::size_t decode_v(std::size_t slot) { return 2 + 2 * slot; }
}  // namespace port

// In the nets of a layer that attends to images: keys and values [1, images × tiles × tokens of a
// tile, kv_heads, head_dim] for every slot, the only one's in prefill.
namespace cross_port {
constexpr std::size_t kStates = 0;
constexpr std::size_t kRowMask = 1;  // 0 for tokens that see no tile
constexpr std::size_t kMask = 2;
constexpr std::size_t k(std::size_t slot) { return 3 + 2 * slot; }
constexpr std::size_t v(std::size_t slot) { return 4 + 2 * slot; }
}  // namespace cross_port

// In the image net.
namespace image_port {
constexpr std::size_t kPixels = 0;
constexpr std::size_t kRatio = 1;
constexpr std::size_t kTiles = 2;  // 1 for those that are there
}  // namespace image_port

// Throws BmodelError that names the net and what was expected of it.
ModelNets discover(const std::vector<runtime::Net>& nets, PartRole role = {});

// The whole model's spec, from its parts in order. Throws BmodelError when they are not parts of
// one model: layers without gaps, lengths and shapes that agree.
ModelSpec join(const std::vector<const ModelNets*>& parts);

}  // namespace tpuserve::engine
