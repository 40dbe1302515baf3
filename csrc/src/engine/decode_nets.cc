#include "decode_nets.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>

#include "signature.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

using runtime::Net;
using runtime::ShapeVariant;

namespace {

constexpr std::size_t kFirstHistory = port::decode_history_k(0);

// Every slot has a pair of histories after the inputs that all share.
int slots_of(const Net& net) {
  const std::size_t inputs = net.variants[0].inputs.size();
  const bool pairs = inputs > kFirstHistory && (inputs - kFirstHistory) % 2 == 0;
  const std::size_t slots = pairs ? (inputs - kFirstHistory) / 2 : 1;
  Signature(net, net.variants[0]).counts(kFirstHistory + 2 * slots, 1 + 2 * slots);
  return static_cast<int>(slots);
}

DecodeShape shape_of(const Net& net, const ShapeVariant& variant) {
  const Signature signature(net, variant);
  signature.rank(port::kStates, "hidden states", 3);
  signature.rank(kFirstHistory, "history k", 4);
  return {variant.inputs[port::kStates].shape[0], variant.inputs[kFirstHistory].shape[1]};
}

void read_variants(ModelNets& model, const Net& net) {
  std::vector<DecodeShape> shapes;
  for (const ShapeVariant& variant : net.variants) shapes.push_back(shape_of(net, variant));
  model.decode_variants.resize(shapes.size());
  std::iota(model.decode_variants.begin(), model.decode_variants.end(), std::size_t{0});
  std::sort(model.decode_variants.begin(), model.decode_variants.end(),
            [&shapes](std::size_t a, std::size_t b) {
              return std::tie(shapes[a].rows, shapes[a].length) <
                     std::tie(shapes[b].rows, shapes[b].length);
            });
  int longest = 0;
  for (const std::size_t index : model.decode_variants) {
    model.spec.decode_variants.push_back(shapes[index]);
    longest = std::max(longest, shapes[index].length);
  }
  const DecodeShape& largest = model.spec.decode_variants.back();
  if (largest.rows != model.spec.decode_rows || largest.length != longest) {
    throw BmodelError("net " + net.name + ": expected a shape variant for all " +
                      std::to_string(model.spec.decode_rows) + " slots and " +
                      std::to_string(longest) + " rows of history");
  }
}

class DecodeChecker {
 public:
  explicit DecodeChecker(const ModelNets& model) : model_(model), spec_(model.spec) {}

  void check(const Net& net) const {
    if (net.dynamic) throw BmodelError("net " + net.name + ": expected a static net");
    if (!net.io_alone) {
      throw BmodelError("net " + net.name +
                        ": expected to be compiled with addr_mode io_alone, so that its history "
                        "inputs can hold the KV of a slot");
    }
    if (net.variants.size() != model_.decode_variants.size()) {
      throw BmodelError("net " + net.name + ": expected " +
                        std::to_string(model_.decode_variants.size()) + " shape variants as " +
                        model_.layers[0].decode->name + " has, not " +
                        std::to_string(net.variants.size()));
    }
    for (std::size_t i = 0; i < model_.decode_variants.size(); ++i) {
      const ShapeVariant& variant = net.variants[model_.decode_variants[i]];
      check_variant(Signature(net, variant), spec_.decode_variants[i]);
      check_memory(net, variant);
    }
  }

 private:
  std::size_t slots() const { return static_cast<std::size_t>(spec_.decode_rows); }

  void check_variant(const Signature& signature, const DecodeShape& shape) const {
    signature.counts(kFirstHistory + 2 * slots(), 1 + 2 * slots());
    const std::vector<int> states = {shape.rows, 1, spec_.hidden_size};
    signature.input(port::kStates, "hidden states", states, spec_.dtype);
    if (slots() == 1) {
      signature.positions(port::kPositions, 1);
    } else {
      signature.input(port::kPositions, "positions", {shape.rows, 1}, runtime::DType::kInt32);
    }
    signature.input(port::kMask, "mask", {shape.rows, 1, 1, shape.length + 1}, std::nullopt);
    signature.float_input(port::kMask);
    signature.output(port::kOutStates, "hidden states", states, spec_.dtype);
    const std::vector<int> history = {1, shape.length, spec_.kv_heads, spec_.head_dim};
    const std::vector<int> row = {1, 1, spec_.kv_heads, spec_.head_dim};
    for (std::size_t slot = 0; slot < slots(); ++slot) {
      signature.input(port::decode_history_k(slot), "history k", history, spec_.dtype);
      signature.input(port::decode_history_v(slot), "history v", history, spec_.dtype);
      signature.output(port::decode_k(slot), "k", row, spec_.dtype);
      signature.output(port::decode_v(slot), "v", row, spec_.dtype);
    }
  }

  void check_memory(const Net& net, const ShapeVariant& variant) const {
    const ShapeVariant& largest = net.variants[model_.decode_variants.back()];
    for (std::size_t i = kFirstHistory; i < variant.inputs.size(); ++i) {
      if (variant.inputs[i].memory.address == largest.inputs[i].memory.address) continue;
      throw BmodelError("net " + net.name +
                        ": expected all shape variants to share the memory of their history");
    }
  }

  const ModelNets& model_;
  const ModelSpec& spec_;
};

}  // namespace

void read_decode_nets(ModelNets& model) {
  const Net& first = *model.layers[0].decode;
  if (first.variants.empty()) throw BmodelError("net " + first.name + " has no shape variant");
  model.spec.decode_rows = slots_of(first);
  read_variants(model, first);
  const runtime::Port& history =
      first.variants[model.decode_variants.back()].inputs[port::decode_history_k(0)];
  model.spec.context_length = history.shape[1];
  model.spec.kv_heads = history.shape[2];
  model.spec.head_dim = history.shape[3];
  const DecodeChecker checker(model);
  for (const LayerNets& layer : model.layers) checker.check(*layer.decode);
}

}  // namespace tpuserve::engine
