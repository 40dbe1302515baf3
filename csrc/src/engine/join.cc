#include <algorithm>
#include <set>
#include <string>
#include <tuple>

#include "tpuserve/engine/discovery.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

namespace {

bool same_shapes(const ModelSpec& a, const ModelSpec& b) {
  const auto key = [](const ModelSpec& s) {
    return std::tie(s.hidden_size, s.dtype, s.kv_heads, s.head_dim, s.context_length,
                    s.prefill_chunk, s.history_chunk, s.max_history, s.dynamic_prefill,
                    s.decode_rows);
  };
  const auto same_variant = [](const DecodeShape& x, const DecodeShape& y) {
    return x.rows == y.rows && x.length == y.length;
  };
  return key(a) == key(b) &&
         std::equal(a.decode_variants.begin(), a.decode_variants.end(), b.decode_variants.begin(),
                    b.decode_variants.end(), same_variant);
}

void check_follows(const ModelNets& part, const ModelSpec& before, const ModelSpec& first,
                   std::size_t number) {
  if (part.first_layer != before.layers) {
    throw BmodelError("part " + std::to_string(number) + " begins with layer " +
                      std::to_string(part.first_layer) + ": expected layer " +
                      std::to_string(before.layers) + ", behind those of the parts before it");
  }
  if (!same_shapes(part.spec, first)) {
    throw BmodelError("part " + std::to_string(number) +
                      " has other shapes, lengths or element types than part 0: they were not "
                      "compiled as one model");
  }
}

}  // namespace

ModelSpec join(const std::vector<const ModelNets*>& parts) {
  ModelSpec model = parts.front()->spec;
  std::set<std::string> features(model.features.begin(), model.features.end());
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const ModelSpec& part = parts[i]->spec;
    check_follows(*parts[i], model, parts.front()->spec, i);
    model.layers += part.layers;
    model.kv_bytes_per_slot += part.kv_bytes_per_slot;
    features.insert(part.features.begin(), part.features.end());
  }
  const ModelSpec& last = parts.back()->spec;
  model.head = last.head;
  model.vocab_size = last.vocab_size;
  if (last.vocab_size > 0 && !model.vision.has_value()) model.embedding_rows = last.vocab_size;
  model.features.assign(features.begin(), features.end());
  return model;
}

}  // namespace tpuserve::engine
