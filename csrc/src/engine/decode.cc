#include "decode.h"

#include <algorithm>

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

}  // namespace

Decode::Decode(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets)
    : chip_(chip),
      bmodel_(bmodel),
      id_(chip, sizeof(std::int32_t)),
      embedding_{nets.decode_embedding.net, tensors(nets.decode_embedding.variant->inputs),
                 tensors(nets.decode_embedding.variant->outputs)},
      mask_(largest_decode(nets, 0).inputs[port::kMask].dtype) {
  // Hidden states go from net to net without a copy of ours: each net writes into the input memory
  // of the next. Positions and mask are the same for all layers, so all read those of layer 0.
  const ShapeVariant& first = largest_decode(nets, 0);
  // The id has memory of its own: the net's is the same in every runtime of a chip, and the slots'
  // launches are all queued before the first is done.
  embedding_.inputs[0].memory = id_.ref();
  embedding_.outputs[0].memory = first.inputs[port::kStates].memory;
  positions_.resize(first.inputs[port::kPositions].shape.elements());
  for (const std::size_t index : nets.decode_variants) {
    Variant variant;
    variant.capacity =
        nets.layers[0].decode->variants[index].inputs[port::kDecodeHistoryK].shape[1];
    for (std::size_t layer = 0; layer < nets.layers.size(); ++layer) {
      const Net& net = *nets.layers[layer].decode;
      Step step{&net, tensors(net.variants[index].inputs), tensors(net.variants[index].outputs)};
      step.inputs[port::kStates].memory = largest_decode(nets, layer).inputs[port::kStates].memory;
      step.inputs[port::kPositions].memory = first.inputs[port::kPositions].memory;
      step.inputs[port::kMask].memory = first.inputs[port::kMask].memory;
      if (layer + 1 < nets.layers.size()) {
        step.outputs[port::kOutStates].memory =
            largest_decode(nets, layer + 1).inputs[port::kStates].memory;
      }
      variant.steps.push_back(std::move(step));
    }
    variants_.push_back(std::move(variant));
  }
}

Decode::Variant& Decode::smallest_for(int length) {
  // A variant merges the new row into row `capacity` of the history before it attends: rows below
  // `length` must not be touched, so capacity >= length.
  return *std::find_if(variants_.begin(), variants_.end(),
                       [length](const Variant& variant) { return variant.capacity >= length; });
}

MemoryRef Decode::launch(const KvRows& kv, std::int32_t id, int length) {
  Variant& variant = smallest_for(length);
  mask_.decode(length, variant.capacity);
  std::fill(positions_.begin(), positions_.end(), length);
  chip_.upload(embedding_.inputs[0].memory, &id, sizeof id);
  bmodel_.launch(*embedding_.net, embedding_.inputs, embedding_.outputs);

  const Step& first = variant.steps.front();
  chip_.upload(first.inputs[port::kPositions].memory, positions_.data(),
               positions_.size() * sizeof(std::int32_t));
  chip_.upload(first.inputs[port::kMask].memory, mask_.data(), mask_.size_bytes());
  for (std::size_t layer = 0; layer < variant.steps.size(); ++layer) {
    Step& step = variant.steps[layer];
    step.outputs[port::kOutK].memory = kv.k(layer, length, 1);
    step.outputs[port::kOutV].memory = kv.v(layer, length, 1);
    bmodel_.launch(*step.net, step.inputs, step.outputs);
  }
  return variant.steps.back().outputs[port::kOutStates].memory;
}

}  // namespace tpuserve::engine
