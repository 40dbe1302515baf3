#include "older_forms.h"

#include <algorithm>

#include "tpuserve/engine/discovery.h"

namespace tpuserve::engine {

using runtime::MemoryRef;
using runtime::Net;
using runtime::Port;
using runtime::Shape;
using runtime::ShapeVariant;
using runtime::Tensor;

namespace {

bool begins_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

bool is_decode(const Net& net) { return net.name.find("block_cache_") != std::string::npos; }

Shape behind_one(const Shape& shape) {
  Shape result{1};
  for (int axis = 0; axis < shape.rank(); ++axis) result.append(shape[axis]);
  return result;
}

void swap_length(Port& port) {
  if (port.shape.rank() < 3) return;
  const int length = port.shape[0];
  port.shape.set(0, port.shape[1]);
  port.shape.set(1, length);
}

// ids [length] to states [length, hidden] or [length, 1, hidden].
void turn_embedding(ShapeVariant& variant) {
  Port& states = variant.outputs[0];
  variant.inputs[0].shape = behind_one(variant.inputs[0].shape);
  if (states.shape.rank() == 2) {
    states.shape = behind_one(states.shape);
  } else {
    swap_length(states);
  }
}

bool takes_bare_ids(const Net& net) {
  return begins_with(net.name, "embedding") && !net.variants.empty() &&
         std::all_of(net.variants.begin(), net.variants.end(), [](const ShapeVariant& variant) {
           return variant.inputs.size() == 1 && variant.outputs.size() == 1 &&
                  variant.inputs[0].shape.rank() == 1;
         });
}

void turn(Net& net) {
  const std::vector<ShapeVariant> compiled = net.variants;
  const bool layer = begins_with(net.name, "glm_block_");
  if (!layer && !takes_bare_ids(net)) return;
  net.compiled = compiled;
  net.mask_of_ones = layer;
  for (ShapeVariant& variant : net.variants) {
    if (!layer) {
      turn_embedding(variant);
      continue;
    }
    for (Port& port : variant.inputs) swap_length(port);
    for (Port& port : variant.outputs) swap_length(port);
  }
}

// Of a decode net whose K has as many rows as its history.
void find_window(Net& net) {
  for (ShapeVariant& variant : net.variants) {
    if (variant.inputs.size() != port::decode_history_v(0) + 1 || variant.outputs.size() != 3) {
      continue;
    }
    const Shape& history = variant.inputs[port::decode_history_k(0)].shape;
    const Shape& k = variant.outputs[port::kOutK].shape;
    if (history.rank() != 4 || history != k || k[1] == 1) continue;
    net.window_rows = k[1];
    variant.outputs[port::kOutK].shape.set(1, 1);
    variant.outputs[port::kOutV].shape.set(1, 1);
  }
}

}  // namespace

OlderForms::OlderForms(runtime::Chip& chip, const std::vector<Net>& nets)
    : chip_(chip), nets_(nets) {
  for (Net& net : nets_) {
    turn(net);
    if (!is_decode(net) || net.dynamic) continue;
    if (!net.io_alone) give_memory(net);
    find_window(net);
  }
}

void OlderForms::give_memory(Net& net) {
  // Shape variants would have to share their memory, chips to have some each: no such bmodel is
  // known.
  if (net.variants.size() != 1 || net.chips != 1) return;
  ShapeVariant& variant = net.variants[0];
  for (std::size_t i = 0; i < variant.inputs.size(); ++i) {
    Port& port = variant.inputs[i];
    // Positions and mask are the same for all layers.
    const bool common = i == port::kPositions || i == port::kMask;
    port.memory = common ? shared("input" + std::to_string(i), port) : allocate(port);
  }
  for (std::size_t i = 0; i < variant.outputs.size(); ++i) {
    variant.outputs[i].memory = shared("output" + std::to_string(i), variant.outputs[i]);
  }
  net.io_alone = true;
}

MemoryRef OlderForms::shared(const std::string& use, const Port& port) {
  const auto key = std::make_pair(use, port.shape.elements() * size_bytes(port.dtype));
  const auto found = shared_.find(key);
  if (found != shared_.end()) return found->second;
  return shared_[key] = allocate(port);
}

MemoryRef OlderForms::allocate(const Port& port) {
  memory_.emplace_back(chip_, port.shape.elements() * size_bytes(port.dtype));
  return memory_.back().ref();
}

void take_new_rows(runtime::Chip& chip, const Net& net, const std::vector<Tensor>& outputs,
                   const KvRows& kv, std::size_t layer, int row) {
  const std::size_t last = static_cast<std::size_t>(net.window_rows - 1) * kv.row_bytes();
  const auto new_row = [&](std::size_t output) {
    return outputs[output].memory.slice(last, kv.row_bytes());
  };
  chip.copy(kv.k(layer, row, 1), new_row(port::kOutK), kv.row_bytes());
  chip.copy(kv.v(layer, row, 1), new_row(port::kOutV), kv.row_bytes());
}

}  // namespace tpuserve::engine
