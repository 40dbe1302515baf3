#include "tpuserve/engine/discovery.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "decode_nets.h"
#include "signature.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

using runtime::DType;
using runtime::Net;
using runtime::ShapeVariant;

const char* name(HeadKind kind) { return kind == HeadKind::kLogits ? "logits" : "argmax"; }

namespace {

// Names of a layer's nets: the number follows the prefix.
struct NameScheme {
  const char* prefill;
  const char* decode;
  const char* history;
};

// Today's converter, and the bmodels of 2023 that kept the model's name.
constexpr NameScheme kSchemes[] = {{"block_", "block_cache_", "block_kv_"},
                                   {"qwen_block_", "qwen_block_cache_", "qwen_block_kv_"}};

// Nets beside the layers that may be there; those with a feature are reported, not used yet.
enum Part { kFirst, kLast };
struct KnownNet {
  const char* name;
  const char* feature;
  Part part;  // that it belongs to, where a model has several
};
constexpr KnownNet kKnownNets[] = {
    {"embedding", nullptr, kFirst},
    {"embedding_cache", nullptr, kFirst},
    {"lm_head", nullptr, kLast},
    {"greedy_head", "greedy-head", kLast},
    {"sample_head", "sample-head", kLast},
    {"penalty_sample_head", "penalty-sample-head", kLast},
    {"vit", "vit", kFirst},
    {"embedding_lora", "lora", kFirst},
    {"embedding_cache_lora", "lora", kFirst},
    {"lm_head_lora", "lora", kLast},
};

class Discoverer {
 public:
  Discoverer(const std::vector<Net>& nets, PartRole role) : nets_(nets) { model_.role = role; }

  ModelNets run() {
    find_layers();
    if (model_.role.first) {
      find_embeddings();
    } else {
      read_states();
    }
    read_decode_nets(model_);
    if (model_.role.first) require_decode_rows(model_.decode_embedding);
    read_prefill();
    read_history();
    if (model_.role.last) read_head();
    refuse_unknown();
    set_lengths();
    collect_features();
    return std::move(model_);
  }

 private:
  const Net* find(const std::string& wanted) {
    for (const Net& net : nets_) {
      if (net.name == wanted) {
        used_.insert(wanted);
        return &net;
      }
    }
    return nullptr;
  }

  const Net& require(const std::string& wanted, const char* what) {
    const Net* net = find(wanted);
    if (net == nullptr) throw BmodelError("no net " + wanted + " (" + what + ")");
    return *net;
  }

  // The number of the part's lowest layer; 0 when it has none.
  int first_layer(const NameScheme& scheme) {
    constexpr int kMostLayers = 4096;
    for (int i = 0; i < kMostLayers; ++i) {
      if (find(scheme.prefill + std::to_string(i)) != nullptr) return i;
    }
    return 0;
  }

  void find_layers() {
    for (const NameScheme& scheme : kSchemes) {
      model_.first_layer = model_.role.first ? 0 : first_layer(scheme);
      for (int i = model_.first_layer;; ++i) {
        const std::string number = std::to_string(i);
        LayerNets layer;
        layer.prefill = find(scheme.prefill + number);
        layer.decode = find(scheme.decode + number);
        layer.history = find(scheme.history + number);
        if (layer.prefill == nullptr && layer.decode == nullptr) break;
        if (layer.prefill == nullptr) require(scheme.prefill + number, "prefill of a layer");
        if (layer.decode == nullptr) require(scheme.decode + number, "decode of a layer");
        model_.layers.push_back(layer);
      }
      if (!model_.layers.empty()) break;
    }
    if (model_.layers.empty()) {
      throw BmodelError("no net block_0: the bmodel has no layers of a language model");
    }
    model_.spec.layers = static_cast<int>(model_.layers.size());
  }

  void find_embeddings() {
    const Net& net = require("embedding", "token ids to hidden states of a prompt");
    const Net* cache = find("embedding_cache");
    model_.prefill_embedding = read_prefill_embedding(net);
    const ShapeVariant& variant = *model_.prefill_embedding.variant;
    model_.prefill_rows = model_.prefill_embedding.rows;
    model_.spec.hidden_size = variant.outputs[0].shape[2];
    model_.spec.dtype = variant.outputs[0].dtype;
    // Older bmodels have no second net but a second shape variant, for one token.
    model_.decode_embedding = read_decode_embedding(cache != nullptr ? *cache : net);
  }

  // What the embedding tells of a whole model, a later part's first layer tells.
  void read_states() {
    const Net& net = *model_.layers[0].prefill;
    if (net.variants.empty()) throw BmodelError("net " + net.name + " has no shape variant");
    const Signature signature(net, net.variants[0]);
    signature.rank(port::kStates, "hidden states", 3);
    signature.float_input(port::kStates);
    const runtime::Port& states = net.variants[0].inputs[port::kStates];
    model_.prefill_rows = states.shape[1];
    model_.spec.hidden_size = states.shape[2];
    model_.spec.dtype = states.dtype;
  }

  static EmbeddingNet read_prefill_embedding(const Net& net) {
    EmbeddingNet widest;
    for (const ShapeVariant& variant : net.variants) {
      const Signature signature(net, variant);
      signature.counts(1, 1);
      signature.input(0, "ids", {1, Signature::kAny}, DType::kInt32);
      const int rows = variant.inputs[0].shape[1];
      signature.output(0, "hidden states", {1, rows, Signature::kAny}, std::nullopt);
      signature.float_output(0);
      if (rows > widest.rows) widest = {&net, &variant, rows};
    }
    if (widest.net == nullptr) throw BmodelError("net " + net.name + " has no shape variant");
    return widest;
  }

  // Variants of another width than one token of each row belong to prefill.
  RowsNet read_decode_embedding(const Net& net) const {
    RowsNet embedding{&net, {}};
    for (const ShapeVariant& variant : net.variants) {
      const Signature signature(net, variant);
      signature.counts(1, 1);
      signature.input(0, "ids", {Signature::kAny, Signature::kAny}, DType::kInt32);
      const int rows = variant.inputs[0].shape[0];
      if (variant.inputs[0].shape[1] != 1) continue;
      signature.output(0, "hidden states", {rows, 1, model_.spec.hidden_size}, model_.spec.dtype);
      embedding.by_rows[rows] = &variant;
    }
    return embedding;
  }

  void read_prefill() {
    const Net& first = *model_.layers[0].prefill;
    model_.spec.dynamic_prefill = first.dynamic;
    model_.spec.prefill_chunk = model_.prefill_rows;
    for (const LayerNets& layer : model_.layers) check_prefill(*layer.prefill, first);
  }

  void check_prefill(const Net& net, const Net& first) const {
    const ModelSpec& spec = model_.spec;
    const int rows = spec.prefill_chunk;
    if (net.dynamic != first.dynamic || net.variants.size() != 1) {
      throw BmodelError("net " + net.name + ": expected one shape variant, " +
                        (first.dynamic ? "dynamic" : "static") + " as " + first.name);
    }
    const Signature signature(net, net.variants[0]);
    // Dynamic nets of today's converter have their causal mask inside.
    const bool masked = first.variants[0].inputs.size() == 3;
    if (!masked && !first.dynamic) signature.counts(3, 3);
    signature.counts(masked ? 3 : 2, 3);
    signature.input(port::kStates, "hidden states", {1, rows, spec.hidden_size}, spec.dtype);
    signature.positions(port::kPositions, rows);
    if (masked) {
      signature.input(port::kMask, "mask", {1, 1, rows, rows}, std::nullopt);
      signature.float_input(port::kMask);
    }
    check_prefill_outputs(signature);
  }

  void check_prefill_outputs(const Signature& signature) const {
    const ModelSpec& spec = model_.spec;
    const int rows = spec.prefill_chunk;
    signature.output(port::kOutStates, "hidden states", {1, rows, spec.hidden_size}, spec.dtype);
    const std::vector<int> kv = {1, rows, spec.kv_heads, spec.head_dim};
    signature.output(port::kOutK, "k", kv, spec.dtype);
    signature.output(port::kOutV, "v", kv, spec.dtype);
  }

  int number_of(std::size_t layer) const { return model_.first_layer + static_cast<int>(layer); }

  void read_history() {
    const Net* first = model_.layers[0].history;
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      const Net* net = model_.layers[i].history;
      if ((net == nullptr) != (first == nullptr)) {
        throw BmodelError("layer " + std::to_string(number_of(i)) + ": expected a net " +
                          std::string(kSchemes[0].history) + "<i> in all layers or in none");
      }
      if (net != nullptr) check_history(*net, *first);
    }
    if (first != nullptr) {
      model_.spec.max_history = first->variants[0].inputs[port::kHistoryK].shape[1];
    }
  }

  void check_history(const Net& net, const Net& first) const {
    const ModelSpec& spec = model_.spec;
    if (!net.dynamic || net.variants.size() != 1) {
      throw BmodelError("net " + net.name + ": expected a dynamic net with one shape variant");
    }
    const Signature signature(net, net.variants[0]);
    signature.counts(4, 3);
    signature.input(port::kStates, "hidden states", {1, spec.prefill_chunk, spec.hidden_size},
                    spec.dtype);
    signature.positions(port::kPositions, spec.prefill_chunk);
    Signature(first, first.variants[0]).rank(port::kHistoryK, "history k", 4);
    const int length = first.variants[0].inputs[port::kHistoryK].shape[1];
    const std::vector<int> kv = {1, length, spec.kv_heads, spec.head_dim};
    signature.input(port::kHistoryK, "history k", kv, spec.dtype);
    signature.input(port::kHistoryV, "history v", kv, spec.dtype);
    check_prefill_outputs(signature);
  }

  void read_head() {
    const Net& net = require("lm_head", "hidden state to logits or token");
    RowsNet head{&net, {}};
    for (const ShapeVariant& variant : net.variants) {
      const Signature signature(net, variant);
      signature.counts(1, 1);
      signature.input(0, "hidden state", {Signature::kAny, model_.spec.hidden_size},
                      model_.spec.dtype);
      const int rows = variant.inputs[0].shape[0];
      if (head.by_rows.empty()) read_head_kind(variant.outputs[0]);
      if (model_.spec.head == HeadKind::kArgmax) {
        signature.output(0, "token", {rows, 1}, DType::kInt32);
      } else {
        signature.output(0, "logits", {rows, model_.spec.vocab_size}, std::nullopt);
        signature.float_output(0);
      }
      head.by_rows[rows] = &variant;
    }
    // One row is what a prompt's last token needs.
    require_rows(head, 1);
    require_decode_rows(head);
    model_.head = head;
    model_.spec.embedding_rows = model_.spec.vocab_size;
  }

  void read_head_kind(const runtime::Port& output) {
    const int width = output.shape.rank() == 2 ? output.shape[1] : 1;
    const bool argmax = width == 1;
    model_.spec.head = argmax ? HeadKind::kArgmax : HeadKind::kLogits;
    model_.spec.vocab_size = argmax ? 0 : width;
  }

  void require_decode_rows(const RowsNet& net) const {
    for (const DecodeShape& shape : model_.spec.decode_variants) require_rows(net, shape.rows);
  }

  static void require_rows(const RowsNet& net, int rows) {
    if (net.by_rows.count(rows) != 0) return;
    throw BmodelError("net " + net.net->name + ": expected a shape variant for " +
                      (rows == 1 ? "one token" : std::to_string(rows) + " rows"));
  }

  void refuse_unknown() {
    for (const KnownNet& known : kKnownNets) {
      if (!(known.part == kFirst ? model_.role.first : model_.role.last)) continue;
      if (find(known.name) != nullptr && known.feature != nullptr) {
        features_.insert(known.feature);
      }
    }
    for (const Net& net : nets_) {
      if (used_.count(net.name) != 0) continue;
      throw BmodelError("net " + net.name +
                        " is not known: expected embedding, embedding_cache, block_<i>, "
                        "block_cache_<i>, block_kv_<i>, lm_head, greedy_head, sample_head, "
                        "penalty_sample_head or vit, with layers numbered from 0 without gaps");
    }
  }

  void set_lengths() {
    ModelSpec& spec = model_.spec;
    // A prompt that fills the context leaves no row for its first completion token.
    const int room = spec.context_length - 1;
    spec.prefill_chunk = std::min(spec.prefill_chunk, room);
    spec.max_prompt_length =
        spec.history() ? std::min(room, spec.max_history + spec.prefill_chunk) : spec.prefill_chunk;
    spec.kv_bytes_per_slot = 2ULL * static_cast<std::uint64_t>(spec.layers) *
                             static_cast<std::uint64_t>(spec.context_length) *
                             static_cast<std::uint64_t>(spec.kv_heads) *
                             static_cast<std::uint64_t>(spec.head_dim) * size_bytes(spec.dtype);
  }

  void collect_features() {
    const ModelSpec& spec = model_.spec;
    if (spec.history()) features_.insert("history");
    if (spec.dynamic_prefill) features_.insert("dynamic-prefill");
    if (spec.decode_rows > 1) features_.insert("batched-decode");
    if (spec.decode_variants.size() > 1) features_.insert("decode-variants");
    model_.spec.features.assign(features_.begin(), features_.end());
  }

  const std::vector<Net>& nets_;
  ModelNets model_;
  std::set<std::string> used_;
  std::set<std::string> features_;
};

}  // namespace

ModelNets discover(const std::vector<Net>& nets, PartRole role) {
  return Discoverer(nets, role).run();
}

}  // namespace tpuserve::engine
