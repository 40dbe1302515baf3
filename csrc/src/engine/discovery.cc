#include "tpuserve/engine/discovery.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "cross_nets.h"
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

// A shared prefix and what follows it, in the two namings that there are; today's converter; and
// the bmodels of 2023 that kept the model's name. The first whose prefill and history are there
// counts, else the first of the others.
constexpr NameScheme kSchemes[] = {{"block_prompt_", "block_cache_", "block_"},
                                   {"block_", "block_cache_", "block_unshare_"},
                                   {"block_", "block_cache_", "block_kv_"},
                                   {"qwen_block_", "qwen_block_cache_", "qwen_block_kv_"},
                                   {"glm_block_", "glm_block_cache_", "glm_block_kv_"}};
constexpr std::size_t kSharing = 2;  // of these schemes come first

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
    {"embedding_unshare", nullptr, kFirst},
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
    if (model_.role.has_embedding_nets()) {
      find_embeddings();
    } else {
      read_states();
    }
    read_decode_nets(model_);
    if (model_.role.has_embedding_nets()) require_decode_rows(model_.decode_embedding);
    read_prefill();
    read_history();
    read_cross_nets(model_);
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

  bool exists(const std::string& wanted) const {
    return std::any_of(nets_.begin(), nets_.end(),
                       [&wanted](const Net& net) { return net.name == wanted; });
  }

  // The number of the part's lowest layer; 0 when it has none.
  int first_layer(const NameScheme& scheme) const {
    constexpr int kMostLayers = 4096;
    for (int i = 0; i < kMostLayers && !model_.role.first; ++i) {
      if (exists(scheme.prefill + std::to_string(i))) return i;
    }
    return 0;
  }

  const NameScheme& choose_scheme() const {
    for (const NameScheme& scheme : kSchemes) {
      const std::string number = std::to_string(first_layer(scheme));
      if (exists(scheme.prefill + number) && exists(scheme.history + number)) return scheme;
    }
    for (const NameScheme& scheme : kSchemes) {
      if (&scheme < kSchemes + kSharing) continue;
      const std::string number = std::to_string(first_layer(scheme));
      if (exists(scheme.prefill + number) || exists(scheme.decode + number)) return scheme;
    }
    throw BmodelError("no net block_0: the bmodel has no layers of a language model");
  }

  void find_layers() {
    scheme_ = &choose_scheme();
    model_.first_layer = first_layer(*scheme_);
    std::vector<CrossNets> crossing;
    const FindNet find_net = [this](const std::string& name) { return find(name); };
    for (int i = model_.first_layer;; ++i) {
      const std::string number = std::to_string(i);
      if (std::optional<CrossNets> nets = find_cross_nets(find_net, i)) {
        crossing.push_back(std::move(*nets));
        continue;
      }
      LayerNets layer;
      layer.prefill = find(scheme_->prefill + number);
      layer.decode = find(scheme_->decode + number);
      layer.history = find(scheme_->history + number);
      if (layer.prefill == nullptr && layer.decode == nullptr) break;
      if (layer.prefill == nullptr) require(scheme_->prefill + number, "prefill of a layer");
      if (layer.decode == nullptr) require(scheme_->decode + number, "decode of a layer");
      refuse_repeated_keys(*layer.prefill);
      layer.crossing = std::move(crossing);
      crossing.clear();
      model_.layers.push_back(std::move(layer));
    }
    if (!crossing.empty()) {
      throw BmodelError("net " + crossing.back().image->name +
                        ": expected a layer behind it that attends to text");
    }
    model_.spec.layers = static_cast<int>(model_.layers.size());
    model_.vit = find("vit");
  }

  void find_embeddings() {
    const Net& net = require("embedding",
                             "token ids to hidden states of a prompt; a bmodel without it has an "
                             "embedding.bin beside it");
    const Net* cache = find("embedding_cache");
    model_.prefill_embedding = read_prefill_embedding(net);
    const Net* later = find("embedding_unshare");
    model_.history_embedding =
        later != nullptr ? read_prefill_embedding(*later) : model_.prefill_embedding;
    const ShapeVariant& variant = *model_.prefill_embedding.variant;
    model_.spec.hidden_size = variant.outputs[0].shape[2];
    model_.spec.dtype = variant.outputs[0].dtype;
    // Older bmodels have no second net but a second shape variant, for one token.
    model_.decode_embedding = read_decode_embedding(cache != nullptr ? *cache : net);
  }

  // What embedding nets would tell, the first layer tells.
  void read_states() {
    const Net& net = *model_.layers[0].prefill;
    rows_of(net);
    Signature(net, net.variants[0]).float_input(port::kStates);
    const runtime::Port& states = net.variants[0].inputs[port::kStates];
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
    model_.prefill_rows = rows_of(first);
    check_embedding(first, model_.prefill_embedding);
    model_.spec.dynamic_prefill = first.dynamic;
    model_.spec.prefill_chunk = model_.prefill_rows;
    for (const LayerNets& layer : model_.layers) check_prefill(*layer.prefill, first);
  }

  // Tokens that a prefill net takes.
  static int rows_of(const Net& net) {
    if (net.variants.empty() || net.variants[0].inputs.empty()) {
      throw BmodelError("net " + net.name + " has no shape variant with inputs");
    }
    Signature(net, net.variants[0]).rank(port::kStates, "hidden states", 3);
    return net.variants[0].inputs[port::kStates].shape[1];
  }

  void check_embedding(const Net& net, const EmbeddingNet& embedding) const {
    const int rows = rows_of(net);
    if (!model_.role.has_embedding_nets() || rows <= embedding.rows) return;
    throw BmodelError("net " + embedding.net->name + ": expected a shape variant for the " +
                      std::to_string(rows) + " tokens of " + net.name + ", not " +
                      std::to_string(embedding.rows));
  }

  static void check_alike(const Net& net, const Net& first) {
    if (net.dynamic == first.dynamic && net.variants.size() == 1) return;
    throw BmodelError("net " + net.name + ": expected one shape variant, " +
                      (first.dynamic ? "dynamic" : "static") + " as " + first.name);
  }

  void check_prefill(const Net& net, const Net& first) const {
    const int rows = model_.prefill_rows;
    check_alike(net, first);
    const Signature signature(net, net.variants[0]);
    // Dynamic nets of today's converter have their causal mask inside.
    const bool masked = first.variants[0].inputs.size() == 3;
    if (!masked && !first.dynamic) signature.counts(3, 3);
    signature.counts(masked ? 3 : 2, 3);
    check_tokens(signature, rows);
    if (masked) {
      signature.input(port::kMask, "mask", {1, 1, rows, rows}, std::nullopt);
      signature.float_input(port::kMask);
    }
  }

  // What all prefill nets have in common.
  void check_tokens(const Signature& signature, int rows) const {
    const ModelSpec& spec = model_.spec;
    const std::vector<int> states = {1, rows, spec.hidden_size};
    signature.input(port::kStates, "hidden states", states, spec.dtype);
    signature.positions(port::kPositions, rows);
    signature.output(port::kOutStates, "hidden states", states, spec.dtype);
    const std::vector<int> kv = {1, rows, spec.kv_heads, spec.head_dim};
    signature.output(port::kOutK, "k", kv, spec.dtype);
    signature.output(port::kOutV, "v", kv, spec.dtype);
  }

  int number_of(std::size_t layer) const { return model_.first_layer + static_cast<int>(layer); }

  void read_history() {
    const Net* first = model_.layers[0].history;
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      if ((model_.layers[i].history == nullptr) == (first == nullptr)) continue;
      throw BmodelError("layer " + std::to_string(number_of(i)) + ": expected a net " +
                        scheme_->history + "<i> in all layers or in none");
    }
    if (first == nullptr) return;
    model_.history_rows = rows_of(*first);
    check_embedding(*first, model_.history_embedding);
    model_.spec.history_chunk = model_.history_rows;
    const ShapeVariant& variant = first->variants[0];
    const Signature signature(*first, variant);
    const bool masked = variant.inputs.size() == port::kMaskedHistory;
    signature.counts(masked ? port::kMaskedHistory : port::kUnmaskedHistory, 3);
    signature.rank(port::history_k(variant), "history k", 4);
    model_.spec.max_history = variant.inputs[port::history_k(variant)].shape[1];
    for (const LayerNets& layer : model_.layers) check_history(*layer.history, *first);
  }

  void check_history(const Net& net, const Net& first) const {
    const ModelSpec& spec = model_.spec;
    const std::size_t inputs = first.variants[0].inputs.size();
    const bool masked = inputs == port::kMaskedHistory;
    check_alike(net, first);
    if (!masked && !net.dynamic) {
      throw BmodelError("net " + net.name + ": expected a dynamic net, for it has no mask input");
    }
    const ShapeVariant& variant = net.variants[0];
    const Signature signature(net, variant);
    signature.counts(inputs, 3);
    check_tokens(signature, model_.history_rows);
    if (masked) check_history_mask(net, signature);
    const std::vector<int> kv = {1, spec.max_history, spec.kv_heads, spec.head_dim};
    signature.input(port::history_k(variant), "history k", kv, spec.dtype);
    signature.input(port::history_v(variant), "history v", kv, spec.dtype);
  }

  void check_history_mask(const Net& net, const Signature& signature) const {
    const ModelSpec& spec = model_.spec;
    const int rows = model_.history_rows;
    signature.input(port::kMask, "mask", {1, 1, rows, spec.max_history + rows}, std::nullopt);
    signature.float_input(port::kMask);
    if (spec.max_history <= spec.context_length) return;
    throw BmodelError("net " + net.name + ": expected a history of at most " +
                      std::to_string(spec.context_length) + " rows, the context, not " +
                      std::to_string(spec.max_history));
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
    // Image tokens have rows in the embedding and no logits: its own size tells.
    model_.spec.embedding_rows = model_.spec.vision.has_value() ? 0 : model_.spec.vocab_size;
    if (model_.role.greedy && model_.spec.head == HeadKind::kLogits) read_greedy_head();
  }

  void read_greedy_head() {
    const Net& net = require("greedy_head", "logits to the best token, where the chip draws");
    const runtime::DType dtype = model_.head.widest().outputs[0].dtype;
    model_.greedy.net = &net;
    for (const ShapeVariant& variant : net.variants) {
      const Signature signature(net, variant);
      signature.counts(1, 1);
      signature.input(0, "logits", {Signature::kAny, model_.spec.vocab_size}, dtype);
      const int rows = variant.inputs[0].shape[0];
      signature.output(0, "token", {rows, 1}, DType::kInt32);
      model_.greedy.by_rows[rows] = &variant;
    }
    require_rows(model_.greedy, 1);
    model_.spec.head = HeadKind::kArgmax;
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
                        "block_cache_<i>, block_kv_<i>, block_unshare_<i>, block_prompt_<i>, "
                        "lm_head, greedy_head, sample_head, penalty_sample_head or vit, with "
                        "layers numbered from 0 without gaps");
    }
  }

  void set_lengths() {
    ModelSpec& spec = model_.spec;
    // A prompt that fills the context leaves no row for its first completion token.
    const int room = spec.context_length - 1;
    spec.prefill_chunk = std::min(spec.prefill_chunk, room);
    spec.history_chunk = std::min(spec.history_chunk, room);
    spec.max_prompt_length =
        std::max(spec.prefill_chunk, std::min(room, spec.max_history + spec.history_chunk));
    spec.kv_bytes_per_slot = 2ULL * static_cast<std::uint64_t>(spec.layers) *
                             static_cast<std::uint64_t>(spec.context_length) *
                             static_cast<std::uint64_t>(spec.kv_heads) *
                             static_cast<std::uint64_t>(spec.head_dim) * size_bytes(spec.dtype);
  }

  void collect_features() {
    const ModelSpec& spec = model_.spec;
    if (spec.history()) features_.insert("history");
    if (model_.role.table != nullptr) features_.insert("embedding-disk");
    if (model_.layers[0].decode->window_rows > 0) features_.insert("kv-window");
    if (scheme_ < kSchemes + kSharing) features_.insert("shared-prefix");
    if (spec.vision.has_value()) features_.insert("vision");
    if (spec.dynamic_prefill) features_.insert("dynamic-prefill");
    if (spec.decode_rows > 1) features_.insert("batched-decode");
    if (spec.decode_variants.size() > 1) features_.insert("decode-variants");
    model_.spec.features.assign(features_.begin(), features_.end());
  }

  const std::vector<Net>& nets_;
  const NameScheme* scheme_ = nullptr;
  ModelNets model_;
  std::set<std::string> used_;
  std::set<std::string> features_;
};

}  // namespace

ModelNets discover(const std::vector<Net>& nets, PartRole role) {
  return Discoverer(nets, role).run();
}

}  // namespace tpuserve::engine
