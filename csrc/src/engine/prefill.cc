#include "prefill.h"

#include <algorithm>
#include <utility>

namespace tpuserve::engine {

using runtime::Bmodel;
using runtime::MemoryRef;
using runtime::Net;
using runtime::Port;
using runtime::ShapeVariant;
using runtime::Tensor;

namespace {

std::size_t bytes_of(const Port& port) { return port.shape.elements() * size_bytes(port.dtype); }

Tensor with_rows(const Port& port, int axis, int rows, MemoryRef memory) {
  Tensor tensor = port.tensor();
  tensor.shape.set(axis, rows);
  tensor.memory = memory;
  return tensor;
}

}  // namespace

Prefill::Prefill(runtime::Chip& chip, const ModelNets& nets)
    : chip_(chip),
      rows_(nets.prefill_rows),
      context_length_(nets.spec.context_length),
      state_bytes_(static_cast<std::size_t>(nets.spec.hidden_size) * size_bytes(nets.spec.dtype)),
      states_a_(chip, static_cast<std::size_t>(rows_) * state_bytes_),
      states_b_(chip, static_cast<std::size_t>(rows_) * state_bytes_),
      positions_(chip, bytes_of(nets.layers[0].prefill->variants[0].inputs[port::kPositions])),
      dynamic_(nets.spec.dynamic_prefill) {
  const std::vector<Port>& inputs = nets.layers[0].prefill->variants[0].inputs;
  if (inputs.size() <= port::kMask) return;
  mask_.emplace(inputs[port::kMask].dtype);
  mask_memory_.emplace(chip, bytes_of(inputs[port::kMask]));
  if (!dynamic_) {
    // The causal mask of all rows suits every prompt: rows past its end are computed for nobody.
    mask_->causal(rows_);
    chip_.upload(mask_memory_->ref(), mask_->data(), mask_->size_bytes());
  }
}

MemoryRef Prefill::launch(Bmodel& bmodel, const ModelNets& nets, const KvRows& kv,
                          const PrefillChunk& chunk, const std::vector<std::uint8_t>* states_in) {
  const bool dynamic = dynamic_ || chunk.position > 0;
  const Launch launch{chunk.count, chunk.position, dynamic ? chunk.count : rows_};
  if (nets.role.first) {
    embed(bmodel, nets.prefill_embedding, chunk);
  } else {
    chip_.upload(states_a_.ref(), states_in->data(), states_in->size());
  }
  upload_positions(nets.layers[0].prefill->variants[0].inputs[port::kPositions], launch);
  if (mask_.has_value() && dynamic) upload_mask(launch);

  MemoryRef states = states_a_.ref();
  MemoryRef spare = states_b_.ref();
  for (std::size_t layer = 0; layer < nets.layers.size(); ++layer) {
    launch_layer(bmodel, nets.layers[layer], layer, kv, launch, states, spare);
    std::swap(states, spare);
  }
  return states.slice(0, static_cast<std::size_t>(launch.rows) * state_bytes_);
}

void Prefill::embed(Bmodel& bmodel, const EmbeddingNet& embedding, const PrefillChunk& chunk) {
  const Port& input = embedding.variant->inputs[0];
  const Port& output = embedding.variant->outputs[0];
  staging_.assign(static_cast<std::size_t>(embedding.rows), 0);
  std::copy_n(chunk.ids, chunk.count, staging_.begin());
  chip_.upload(input.memory, staging_.data(), staging_.size() * sizeof(std::int32_t));
  Tensor states = output.tensor();
  states.memory = states_a_.ref();
  bmodel.launch(*embedding.net, {input.tensor()}, {states});
}

void Prefill::upload_positions(const Port& port, const Launch& launch) {
  const int axes = port.shape[0];
  staging_.clear();
  for (int axis = 0; axis < axes; ++axis) {
    for (int row = 0; row < launch.rows; ++row) {
      // Rows past the prompt still look up a rotation: keep them inside its table.
      staging_.push_back(std::min(launch.position + row, context_length_ - 1));
    }
  }
  chip_.upload(positions_.ref(), staging_.data(), staging_.size() * sizeof(std::int32_t));
}

void Prefill::upload_mask(const Launch& launch) {
  // Dynamic nets take the mask packed to the rows of the launch.
  mask_->causal(launch.rows);
  chip_.upload(mask_memory_->ref(), mask_->data(), mask_->size_bytes());
}

void Prefill::launch_layer(Bmodel& bmodel, const LayerNets& nets, std::size_t layer,
                           const KvRows& kv, const Launch& chunk, MemoryRef states,
                           MemoryRef out_states) {
  const bool later = chunk.position > 0;
  const Net& net = later ? *nets.history : *nets.prefill;
  const ShapeVariant& variant = net.variants[0];
  std::vector<Tensor> inputs = {
      with_rows(variant.inputs[port::kStates], 1, chunk.rows, states),
      with_rows(variant.inputs[port::kPositions], 1, chunk.rows, positions_.ref()),
  };
  if (later) {
    // The one pair of inputs that must be in the net's own memory: the net appends the new rows to
    // them there. Given by address, the launch succeeds and the logits are wrong.
    const Port& k = variant.inputs[port::kHistoryK];
    const Port& v = variant.inputs[port::kHistoryV];
    const std::size_t bytes = static_cast<std::size_t>(chunk.position) * kv.row_bytes();
    chip_.copy(k.memory, kv.k(layer, 0, chunk.position), bytes);
    chip_.copy(v.memory, kv.v(layer, 0, chunk.position), bytes);
    inputs.push_back(with_rows(k, 1, chunk.position, k.memory));
    inputs.push_back(with_rows(v, 1, chunk.position, v.memory));
  } else if (mask_.has_value()) {
    Tensor mask = with_rows(variant.inputs[port::kMask], 2, chunk.rows, mask_memory_->ref());
    mask.shape.set(3, chunk.rows);
    inputs.push_back(mask);
  }

  // K and V go straight into the slot. libbmrt wants room for the net's maximum, whatever the
  // launch writes; near the end of the context there is none and they take the way over the net's
  // memory.
  const bool direct = chunk.position + rows_ <= kv.capacity();
  const Port& k_out = variant.outputs[port::kOutK];
  const Port& v_out = variant.outputs[port::kOutV];
  const MemoryRef k_rows = direct ? kv.k(layer, chunk.position, rows_) : k_out.memory;
  const MemoryRef v_rows = direct ? kv.v(layer, chunk.position, rows_) : v_out.memory;
  bmodel.launch(net, inputs,
                {with_rows(variant.outputs[port::kOutStates], 1, chunk.rows, out_states),
                 with_rows(k_out, 1, chunk.rows, k_rows), with_rows(v_out, 1, chunk.rows, v_rows)});
  if (!direct) {
    const std::size_t bytes = static_cast<std::size_t>(chunk.count) * kv.row_bytes();
    chip_.copy(kv.k(layer, chunk.position, chunk.count), k_out.memory, bytes);
    chip_.copy(kv.v(layer, chunk.position, chunk.count), v_out.memory, bytes);
  }
}

}  // namespace tpuserve::engine
