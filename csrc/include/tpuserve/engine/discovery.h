// Finds out what the nets of a bmodel are, by their names and shapes.
#pragma once

#include <vector>

#include "tpuserve/engine/model_spec.h"
#include "tpuserve/runtime/bmodel.h"

namespace tpuserve::engine {

// One shape variant of an embedding net: ids [1, rows] to hidden states [1, rows, hidden].
struct EmbeddingNet {
  const runtime::Net* net = nullptr;
  const runtime::ShapeVariant* variant = nullptr;
  int rows = 0;
};

struct LayerNets {
  const runtime::Net* prefill = nullptr;  // a prompt's first chunk
  const runtime::Net* history = nullptr;  // a later chunk; null when the bmodel has none
  const runtime::Net* decode = nullptr;   // one token
};

// Pointers lead into the nets that were given to `discover`.
struct ModelNets {
  ModelSpec spec;
  EmbeddingNet prefill_embedding;
  EmbeddingNet decode_embedding;
  std::vector<LayerNets> layers;
  // Indices of the decode nets' shape variants, by ascending KV length; the same for all layers.
  std::vector<std::size_t> decode_variants;
  const runtime::Net* head = nullptr;
};

// Where tensors are found in a layer's nets.
namespace port {
constexpr std::size_t kStates = 0;
constexpr std::size_t kPositions = 1;
constexpr std::size_t kMask = 2;            // decode, and prefill with a mask input
constexpr std::size_t kDecodeHistoryK = 3;  // decode: [1, length, kv_heads, head_dim]
constexpr std::size_t kDecodeHistoryV = 4;
constexpr std::size_t kHistoryK = 2;  // later chunks: the mask is inside the net
constexpr std::size_t kHistoryV = 3;
constexpr std::size_t kOutStates = 0;
constexpr std::size_t kOutK = 1;
constexpr std::size_t kOutV = 2;
}  // namespace port

// Throws BmodelError that names the net and what was expected of it.
ModelNets discover(const std::vector<runtime::Net>& nets);

}  // namespace tpuserve::engine
