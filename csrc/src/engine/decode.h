#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cross_attention.h"
#include "kv_rows.h"
#include "prefill.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/mask.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// A token to append to a slot of a context.
struct DecodeToken {
  std::size_t slot;
  std::int32_t id;
};

// What one launch of the decode nets of a context computes.
struct DecodeBatch {
  std::vector<int> lengths;  // tokens in every slot of the context, before this step
  std::vector<DecodeToken> tokens;
};

// The images of a context's slots, where the model looks at images; null elsewhere.
struct StepImages {
  CrossAttention* attention = nullptr;
  const std::vector<ImageSlot>* slots = nullptr;
};

// Hidden states of a launch: row i belongs to slot i.
struct DecodeStates {
  runtime::MemoryRef memory;
  int rows;
};

// The decode nets of one context: a token of each of some slots in, their hidden states out, their
// KV rows written. Which shape variant runs follows from the batch alone: all parts of a model
// choose the same.
class Decode {
 public:
  // `deterministic` keeps to the largest shape variant. `nets` must outlive the object.
  Decode(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets, bool deterministic);

  // Runs each token at the first free row of its slot. Slots that have none in this step keep their
  // rows. `states`: what the part before this one gave for the same batch, null in the first part.
  // Does not wait.
  DecodeStates launch(const std::vector<KvRows>& slots, const DecodeBatch& batch,
                      const std::vector<std::uint8_t>* states, const StepImages& images,
                      const LayerTap& tap);

 private:
  // A launch of one net in one shape variant.
  struct Step {
    const runtime::Net* net;
    const runtime::ShapeVariant* variant;
    std::vector<runtime::Tensor> inputs;
    std::vector<runtime::Tensor> outputs;

    Step(const runtime::Net& net, const runtime::ShapeVariant& variant);
  };
  struct Variant {
    DecodeShape shape;
    std::optional<Step> embedding;  // in the first part
    std::vector<Step> layers;
  };

  Variant make_variant(const ModelNets& nets, std::size_t number) const;
  Variant& smallest_for(const DecodeBatch& batch);
  void upload(const Variant& variant, const DecodeBatch& batch);
  // Of the row ids, by the table.
  void look_up(runtime::MemoryRef target);
  // Whether a token of the step sees images.
  bool begin_images(const StepImages& images, const DecodeBatch& batch, int rows);

  runtime::Chip& chip_;
  runtime::Bmodel& bmodel_;
  const ModelNets& nets_;
  runtime::DeviceMemory ids_;
  std::vector<Variant> variants_;  // ascending rows, then ascending length
  Mask mask_;
  // One per row of the launch.
  std::vector<std::int32_t> row_ids_;
  std::vector<int> row_lengths_;
  std::vector<std::int32_t> positions_;
  std::vector<std::uint8_t> row_states_;  // with a table
  std::vector<ImageRow> image_rows_;
};

}  // namespace tpuserve::engine
