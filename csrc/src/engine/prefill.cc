#include "prefill.h"

#include <algorithm>
#include <utility>

#include "embedding_table.h"

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

// Rows of hidden states that a launch may leave, padding of the embedding nets included.
std::size_t most_rows(const ModelNets& nets) {
  return static_cast<std::size_t>(
      std::max({nets.prefill_rows, nets.history_rows, nets.prefill_embedding.rows,
                nets.history_embedding.rows}));
}

std::size_t positions_bytes(const ModelNets& nets) {
  const LayerNets& layer = nets.layers[0];
  std::size_t bytes = 0;
  for (const Net* net : {layer.prefill, layer.history}) {
    if (net == nullptr) continue;
    bytes = std::max(bytes, bytes_of(net->variants[0].inputs[port::kPositions]));
  }
  return bytes;
}

}  // namespace

Prefill::MaskInput::MaskInput(runtime::Chip& chip, const Port& port, bool of_ones)
    : mask(port.dtype, of_ones), memory(chip, bytes_of(port)) {}

Prefill::Kind::Kind(runtime::Chip& chip, const Net& net)
    : rows(net.variants[0].inputs[port::kStates].shape[1]), dynamic(net.dynamic) {
  const std::vector<Port>& inputs = net.variants[0].inputs;
  if (inputs.size() == port::kMask + 1 || inputs.size() == port::kMaskedHistory) {
    mask.emplace(chip, inputs[port::kMask], net.mask_of_ones);
  }
}

Prefill::Prefill(runtime::Chip& chip, const ModelNets& nets)
    : chip_(chip),
      max_history_(nets.spec.max_history),
      context_length_(nets.spec.context_length),
      first_(chip, *nets.layers[0].prefill),
      state_bytes_(static_cast<std::size_t>(nets.spec.hidden_size) * size_bytes(nets.spec.dtype)),
      states_a_(chip, most_rows(nets) * state_bytes_),
      states_b_(chip, most_rows(nets) * state_bytes_),
      positions_(chip, positions_bytes(nets)) {
  if (nets.spec.history()) later_.emplace(chip, *nets.layers[0].history);
  if (first_.mask.has_value() && !first_.dynamic) {
    // The causal mask of all rows suits every prompt: rows past its end are computed for nobody.
    Mask& mask = first_.mask->mask;
    mask.causal(first_.rows);
    chip_.upload(first_.mask->memory.ref(), mask.data(), mask.size_bytes());
  }
}

MemoryRef Prefill::launch(Bmodel& bmodel, const ModelNets& nets, const KvRows& kv,
                          const PrefillChunk& chunk, const std::vector<std::uint8_t>* states_in,
                          const ChunkImages& images, const LayerTap& tap) {
  const bool later = chunk.position > 0;
  Kind& kind = later ? *later_ : first_;
  const Launch launch{chunk.count, chunk.position, kind.dynamic ? chunk.count : kind.rows};
  if (nets.role.table != nullptr) {
    look_up(*nets.role.table, chunk, launch.rows);
  } else if (nets.role.first) {
    embed(bmodel, later ? nets.history_embedding : nets.prefill_embedding, chunk);
  } else {
    chip_.upload(states_a_.ref(), states_in->data(), states_in->size());
  }
  upload_positions(nets.layers[0].prefill->variants[0].inputs[port::kPositions], launch);
  if (kind.mask.has_value()) upload_mask(kind, launch);

  MemoryRef states = states_a_.ref();
  MemoryRef spare = states_b_.ref();
  // Static, whatever the other layers are: rows past the chunk are computed for nobody.
  if (images.slot != nullptr)
    images.attention->begin_prefill(*images.slot, chunk.position, kind.rows);
  std::size_t crossed = 0;
  for (std::size_t layer = 0; layer < nets.layers.size(); ++layer) {
    for (const CrossNets& crossing : nets.layers[layer].crossing) {
      if (images.slot == nullptr) continue;
      images.attention->prefill(bmodel, crossing, crossed, *images.slot, states, spare);
      std::swap(states, spare);
      ++crossed;
    }
    launch_layer(bmodel, nets.layers[layer], layer, kv, launch, states, spare);
    std::swap(states, spare);
    if (tap) tap(layer, states);
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

void Prefill::look_up(const EmbeddingTable& table, const PrefillChunk& chunk, int rows) {
  // What is behind the chunk must still be numbers: any id's.
  staging_.assign(static_cast<std::size_t>(rows), 0);
  std::copy_n(chunk.ids, chunk.count, staging_.begin());
  host_states_.resize(staging_.size() * state_bytes_);
  table.copy(staging_.data(), staging_.size(), state_bytes_, host_states_.data());
  chip_.upload(states_a_.ref(), host_states_.data(), host_states_.size());
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

int Prefill::history_rows(const Launch& launch) const {
  // A static net computes with all rows, hidden ones too: those must be numbers, which all rows of
  // a slot are.
  return later_->dynamic ? launch.position : max_history_;
}

void Prefill::upload_mask(Kind& kind, const Launch& launch) {
  Mask& mask = kind.mask->mask;
  if (launch.later()) {
    mask.behind(launch.rows, launch.position, history_rows(launch));
  } else if (kind.dynamic) {
    // Dynamic nets take the mask packed to the rows of the launch.
    mask.causal(launch.rows);
  } else {
    return;  // uploaded once
  }
  chip_.upload(kind.mask->memory.ref(), mask.data(), mask.size_bytes());
}

void Prefill::add_history(const ShapeVariant& variant, const KvRows& kv, std::size_t layer,
                          const Launch& launch, std::vector<Tensor>& inputs) {
  const int rows = history_rows(launch);
  const std::size_t bytes = static_cast<std::size_t>(rows) * kv.row_bytes();
  const Port& k = variant.inputs[port::history_k(variant)];
  const Port& v = variant.inputs[port::history_v(variant)];
  // The one pair of inputs that must be in the net's own memory: the net appends the new rows to
  // them there. Given by address, the launch succeeds and the logits are wrong.
  chip_.copy(k.memory, kv.k(layer, 0, rows), bytes);
  chip_.copy(v.memory, kv.v(layer, 0, rows), bytes);
  inputs.push_back(with_rows(k, 1, rows, k.memory));
  inputs.push_back(with_rows(v, 1, rows, v.memory));
}

void Prefill::launch_layer(Bmodel& bmodel, const LayerNets& nets, std::size_t layer,
                           const KvRows& kv, const Launch& chunk, MemoryRef states,
                           MemoryRef out_states) {
  const Kind& kind = chunk.later() ? *later_ : first_;
  const Net& net = chunk.later() ? *nets.history : *nets.prefill;
  const ShapeVariant& variant = net.variants[0];
  std::vector<Tensor> inputs = {
      with_rows(variant.inputs[port::kStates], 1, chunk.rows, states),
      with_rows(variant.inputs[port::kPositions], 1, chunk.rows, positions_.ref()),
  };
  if (kind.mask.has_value()) {
    const Port& input = variant.inputs[port::kMask];
    Tensor mask = with_rows(input, 2, chunk.rows, kind.mask->memory.ref());
    mask.shape.set(3, (chunk.later() ? history_rows(chunk) : 0) + chunk.rows);
    inputs.push_back(mask);
  }
  if (chunk.later()) add_history(variant, kv, layer, chunk, inputs);

  // K and V go straight into the slot. libbmrt wants room for the net's maximum, whatever the
  // launch writes; near the end of the context there is none and they take the way over the net's
  // memory.
  const bool direct = chunk.position + kind.rows <= kv.capacity();
  const Port& k_out = variant.outputs[port::kOutK];
  const Port& v_out = variant.outputs[port::kOutV];
  const MemoryRef k_rows = direct ? kv.k(layer, chunk.position, kind.rows) : k_out.memory;
  const MemoryRef v_rows = direct ? kv.v(layer, chunk.position, kind.rows) : v_out.memory;
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
