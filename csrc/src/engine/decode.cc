#include "decode.h"

#include <algorithm>

#include "embedding_table.h"
#include "older_forms.h"

namespace tpuserve::engine {

using runtime::MemoryRef;
using runtime::Net;
using runtime::Port;
using runtime::ShapeVariant;
using runtime::Tensor;

namespace {

std::vector<Tensor> tensors(const std::vector<Port>& ports) {
  std::vector<Tensor> result;
  for (const Port& port : ports) result.push_back(port.tensor());
  return result;
}

const ShapeVariant& largest_decode(const ModelNets& nets, std::size_t layer) {
  return nets.layers[layer].decode->variants[nets.decode_variants.back()];
}

// The new rows of K and V go straight to the slot. A slot that takes no part gets the net's own
// memory for them, which lies above the rows that any live slot uses.
void place_rows(std::vector<Tensor>& outputs, const ShapeVariant& variant, std::size_t layer,
                const std::vector<KvRows>& slots, const DecodeBatch& batch) {
  for (std::size_t i = port::kOutK; i < outputs.size(); ++i) {
    outputs[i].memory = variant.outputs[i].memory;
  }
  for (const DecodeToken& token : batch.tokens) {
    const KvRows& kv = slots[token.slot];
    const int row = batch.lengths[token.slot];
    outputs[port::decode_k(token.slot)].memory = kv.k(layer, row, 1);
    outputs[port::decode_v(token.slot)].memory = kv.v(layer, row, 1);
  }
}

}  // namespace

Decode::Step::Step(const Net& net_of_step, const ShapeVariant& variant_of_net)
    : net(&net_of_step),
      variant(&variant_of_net),
      inputs(tensors(variant_of_net.inputs)),
      outputs(tensors(variant_of_net.outputs)) {}

Decode::Decode(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets,
               bool deterministic)
    : chip_(chip),
      bmodel_(bmodel),
      nets_(nets),
      ids_(chip, static_cast<std::size_t>(nets.spec.decode_rows) * sizeof(std::int32_t)),
      mask_(largest_decode(nets, 0).inputs[port::kMask].dtype,
            nets.layers[0].decode->mask_of_ones) {
  const std::size_t count = nets.decode_variants.size();
  for (std::size_t number = deterministic ? count - 1 : 0; number < count; ++number) {
    variants_.push_back(make_variant(nets, number));
  }
}

Decode::Variant Decode::make_variant(const ModelNets& nets, std::size_t number) const {
  // Hidden states go from net to net without a copy of ours: each net writes into the input memory
  // of the next. Positions and mask are the same for all layers, so all read those of layer 0.
  const ShapeVariant& first = largest_decode(nets, 0);
  const DecodeShape shape = nets.spec.decode_variants[number];
  Variant variant{shape, std::nullopt, {}};
  if (nets.role.has_embedding_nets()) {
    const RowsNet& embedding = nets.decode_embedding;
    Step& step = variant.embedding.emplace(*embedding.net, *embedding.by_rows.at(shape.rows));
    // The ids have memory of their own: the net's is the same in every runtime of a chip, and the
    // launches of all contexts are queued before the first is done.
    step.inputs[0].memory = ids_.ref();
    step.outputs[0].memory = first.inputs[port::kStates].memory;
  }
  for (std::size_t layer = 0; layer < nets.layers.size(); ++layer) {
    const Net& net = *nets.layers[layer].decode;
    Step step(net, net.variants[nets.decode_variants[number]]);
    step.inputs[port::kStates].memory = largest_decode(nets, layer).inputs[port::kStates].memory;
    step.inputs[port::kPositions].memory = first.inputs[port::kPositions].memory;
    step.inputs[port::kMask].memory = first.inputs[port::kMask].memory;
    if (layer + 1 < nets.layers.size()) {
      step.outputs[port::kOutStates].memory =
          largest_decode(nets, layer + 1).inputs[port::kStates].memory;
    }
    variant.layers.push_back(std::move(step));
  }
  return variant;
}

Decode::Variant& Decode::smallest_for(const DecodeBatch& batch) {
  std::size_t rows = 0;
  for (const DecodeToken& token : batch.tokens) rows = std::max(rows, token.slot + 1);
  // A net merges a new row into row `length` of the history of every slot that it computes, whether
  // that takes part or not, and before it attends: no live row may be there.
  const auto fits = [&](const Variant& variant) {
    const auto computed = static_cast<std::size_t>(variant.shape.rows);
    return computed >= rows &&
           std::all_of(batch.lengths.begin(), batch.lengths.begin() + variant.shape.rows,
                       [&](int length) { return length <= variant.shape.length; });
  };
  return *std::find_if(variants_.begin(), variants_.end(), fits);
}

void Decode::upload(const Variant& variant, const DecodeBatch& batch) {
  // A slot that takes no part is computed as an empty one: nothing of it is visible.
  const auto rows = static_cast<std::size_t>(variant.shape.rows);
  row_ids_.assign(rows, 0);
  row_lengths_.assign(rows, 0);
  for (const DecodeToken& token : batch.tokens) {
    row_ids_[token.slot] = token.id;
    row_lengths_[token.slot] = batch.lengths[token.slot];
  }
  const Step& first = variant.layers.front();
  const Tensor& positions = first.inputs[port::kPositions];
  positions_.clear();
  // Rotary positions of text are the same on all of their axes.
  while (positions_.size() < positions.shape.elements()) {
    positions_.insert(positions_.end(), row_lengths_.begin(), row_lengths_.end());
  }
  mask_.decode(row_lengths_, variant.shape.length);
  if (variant.embedding.has_value()) {
    chip_.upload(ids_.ref(), row_ids_.data(), rows * sizeof(std::int32_t));
  }
  chip_.upload(positions.memory, positions_.data(), positions_.size() * sizeof(std::int32_t));
  chip_.upload(first.inputs[port::kMask].memory, mask_.data(), mask_.size_bytes());
}

void Decode::look_up(MemoryRef target) {
  const std::size_t state_bytes =
      static_cast<std::size_t>(nets_.spec.hidden_size) * size_bytes(nets_.spec.dtype);
  row_states_.resize(row_ids_.size() * state_bytes);
  nets_.role.table->copy(row_ids_.data(), row_ids_.size(), state_bytes, row_states_.data());
  chip_.upload(target, row_states_.data(), row_states_.size());
}

bool Decode::begin_images(const StepImages& images, const DecodeBatch& batch, int rows) {
  if (images.slots == nullptr) return false;
  image_rows_.assign(static_cast<std::size_t>(rows), {});
  bool sees = false;
  for (const DecodeToken& token : batch.tokens) {
    const ImageSlot& slot = (*images.slots)[token.slot];
    if (slot.shown().empty()) continue;
    image_rows_[token.slot] = {&slot, batch.lengths[token.slot]};
    sees = true;
  }
  if (sees) images.attention->begin_decode(image_rows_);
  return sees;
}

DecodeStates Decode::launch(const std::vector<KvRows>& slots, const DecodeBatch& batch,
                            const std::vector<std::uint8_t>* states, const StepImages& images,
                            const LayerTap& tap) {
  Variant& variant = smallest_for(batch);
  upload(variant, batch);
  const bool sees = begin_images(images, batch, variant.shape.rows);
  if (variant.embedding.has_value()) {
    const Step& step = *variant.embedding;
    bmodel_.launch(*step.net, step.inputs, step.outputs);
  } else if (nets_.role.table != nullptr) {
    look_up(variant.layers.front().inputs[port::kStates].memory);
  } else {
    const Tensor& input = variant.layers.front().inputs[port::kStates];
    chip_.upload(input.memory, states->data(), states->size());
  }
  for (std::size_t layer = 0; layer < variant.layers.size(); ++layer) {
    Step& step = variant.layers[layer];
    for (const CrossNets& crossing : nets_.layers[layer].crossing) {
      if (sees) images.attention->decode(bmodel_, crossing, step.inputs[port::kStates].memory);
    }
    const bool window = step.net->window_rows > 0;
    if (!window) place_rows(step.outputs, *step.variant, layer, slots, batch);
    bmodel_.launch(*step.net, step.inputs, step.outputs);
    if (window) {
      const DecodeToken& token = batch.tokens.front();
      take_new_rows(chip_, *step.net, step.outputs, slots[token.slot], layer,
                    batch.lengths[token.slot]);
    }
    if (tap) tap(layer, step.outputs[port::kOutStates].memory);
  }
  return {variant.layers.back().outputs[port::kOutStates].memory, variant.shape.rows};
}

}  // namespace tpuserve::engine
