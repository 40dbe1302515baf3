// What is known of a model from its bmodel alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tpuserve/runtime/tensor.h"

namespace tpuserve::engine {

enum class HeadKind {
  kLogits,  // the head returns one float per vocabulary entry
  kArgmax,  // the head returns the best token
};

const char* name(HeadKind kind);  // "logits", "argmax"

// What one decode launch computes: sequences in it, and rows of KV that each of them sees.
struct DecodeShape {
  int rows = 0;
  int length = 0;
};

// What a model that looks at images takes.
struct VisionSpec {
  int max_images = 0;   // of one sequence
  int max_tiles = 0;    // of one image
  int tile_tokens = 0;  // keys that a tile gives each layer
  int image_size = 0;   // pixels of a side of a tile
  int channels = 0;
  int layers = 0;  // that attend to images, beside ModelSpec::layers

  std::size_t image_rows() const {
    return static_cast<std::size_t>(max_tiles) * static_cast<std::size_t>(tile_tokens);
  }
  // Aspect ratios are all shapes of at most max_tiles tiles, by width and then height, numbered
  // from 1. Tiles of a ratio; 0 for a number that is none.
  int tiles_of_ratio(int ratio) const;
  int ratios() const;
};

// Lengths in tokens.
struct ModelSpec {
  int layers = 0;  // that attend to text: those with KV rows
  int hidden_size = 0;
  int vocab_size = 0;         // width of the logits, 0 for an argmax head
  int embedding_rows = 0;     // token ids that the embedding knows, 0 when it does not tell
  int context_length = 0;     // KV rows of a slot
  int max_prompt_length = 0;  // longest prompt that prefill takes, in as many calls as needed
  int prefill_chunk = 0;      // most tokens of one prefill call at position 0
  int history_chunk = 0;      // most tokens of one behind resident rows, 0 without history
  int max_history = 0;        // highest position that prefill may continue at, 0 without history
  bool dynamic_prefill = false;
  int decode_rows = 1;  // sequences that one decode launch serves at most: the slots of a context
  std::vector<DecodeShape> decode_variants;  // ascending rows, then ascending length
  HeadKind head = HeadKind::kLogits;
  int kv_heads = 0;
  int head_dim = 0;
  runtime::DType dtype = runtime::DType::kFloat16;  // of hidden states and KV
  std::uint64_t kv_bytes_per_slot = 0;
  std::optional<VisionSpec> vision;   // of a model that looks at images
  std::vector<std::string> features;  // sorted

  bool history() const { return max_history > 0; }
};

}  // namespace tpuserve::engine
