#include "tpuserve/engine/discovery.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "test_support.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {
namespace {

using runtime::DType;
using runtime::Net;
using runtime::Port;
using runtime::Shape;
using runtime::ShapeVariant;
using Nets = std::vector<Net>;

constexpr int kHidden = 8;
constexpr int kChunk = 16;
constexpr int kContext = 64;
constexpr DType kHalf = DType::kFloat16;

Port make_port(const char* name, DType dtype, Shape shape) {
  Port port;
  port.name = name;
  port.dtype = dtype;
  port.shape = shape;
  return port;
}

Port states(int rows) { return make_port("input_states", kHalf, {1, rows, kHidden}); }
Port positions(int rows) { return make_port("position_ids", DType::kInt32, {1, rows}); }
Port kv(const char* name, int rows) { return make_port(name, kHalf, {1, rows, 2, 4}); }

Net make_net(const std::string& name, std::vector<Port> inputs, std::vector<Port> outputs) {
  Net net;
  net.name = name;
  net.variants = {{std::move(inputs), std::move(outputs)}};
  return net;
}

Net embedding(const std::string& name, int rows) {
  return make_net(name, {make_port("input_ids", DType::kInt32, {1, rows})}, {states(rows)});
}

Net head() {
  return make_net("lm_head", {make_port("hidden_states", kHalf, {1, kHidden})},
                  {make_port("logits", DType::kFloat32, {1, 100})});
}

ShapeVariant decode_variant(int length) {
  return {{states(1), positions(1), make_port("mask", kHalf, {1, 1, 1, length + 1}),
           kv("history_k", length), kv("history_v", length)},
          {states(1), kv("k", 1), kv("v", 1)}};
}

Net decode(int layer, const std::vector<int>& lengths) {
  Net net;
  net.name = "block_cache_" + std::to_string(layer);
  net.io_alone = true;
  for (const int length : lengths) net.variants.push_back(decode_variant(length));
  return net;
}

Net static_prefill(int layer) {
  return make_net("block_" + std::to_string(layer),
                  {states(kChunk), positions(kChunk),
                   make_port("attention_mask", kHalf, {1, 1, kChunk, kChunk})},
                  {states(kChunk), kv("k", kChunk), kv("v", kChunk)});
}

Net dynamic_prefill(int layer) {
  Net net = make_net("block_" + std::to_string(layer), {states(kChunk), positions(kChunk)},
                     {states(kChunk), kv("k", kChunk), kv("v", kChunk)});
  net.dynamic = true;
  return net;
}

Net history_prefill(int layer) {
  Net net = make_net(
      "block_kv_" + std::to_string(layer),
      {states(kChunk), positions(kChunk), kv("history_k", kContext), kv("history_v", kContext)},
      {states(kChunk), kv("k", kChunk), kv("v", kChunk)});
  net.dynamic = true;
  return net;
}

Nets static_model() {
  return {embedding("embedding", kChunk),
          embedding("embedding_cache", 1),
          head(),
          static_prefill(0),
          decode(0, {kContext}),
          static_prefill(1),
          decode(1, {kContext})};
}

Nets history_model() {
  return {embedding("embedding", kChunk),
          embedding("embedding_cache", 1),
          head(),
          dynamic_prefill(0),
          history_prefill(0),
          decode(0, {kContext, 32, 16}),
          dynamic_prefill(1),
          history_prefill(1),
          decode(1, {kContext, 32, 16})};
}

constexpr int kRest = 8;

// Of `rows` tokens behind a prefix of kChunk.
Net masked_history(const std::string& name, int rows) {
  return make_net(name,
                  {states(rows), positions(rows),
                   make_port("attention_mask", kHalf, {1, 1, rows, kChunk + rows}),
                   kv("history_k", kChunk), kv("history_v", kChunk)},
                  {states(rows), kv("k", rows), kv("v", rows)});
}

Nets share_model() {
  Nets nets = static_model();
  nets.push_back(embedding("embedding_unshare", kRest));
  nets.push_back(masked_history("block_unshare_0", kRest));
  nets.push_back(masked_history("block_unshare_1", kRest));
  return nets;
}

// The same under the other names: what was block_<i> is the prompt's, and block_<i> has a history.
Nets prompt_model() {
  Nets nets = static_model();
  for (const char* number : {"0", "1"}) {
    for (Net& net : nets) {
      if (net.name == std::string("block_") + number) {
        net.name = std::string("block_prompt_") + number;
      }
    }
    nets.push_back(masked_history(std::string("block_") + number, kRest));
  }
  return nets;
}

Net& net_of(Nets& nets, const std::string& name) {
  return *std::find_if(nets.begin(), nets.end(), [&](const Net& net) { return net.name == name; });
}

void remove(Nets& nets, const std::string& name) {
  nets.erase(
      std::remove_if(nets.begin(), nets.end(), [&](const Net& net) { return net.name == name; }),
      nets.end());
}

std::string refusal(const Nets& nets) {
  return error_of<BmodelError>([&] { discover(nets); });
}

TEST(DiscoveryTest, ReadsAStaticModel) {
  const Nets nets = static_model();
  const ModelSpec spec = discover(nets).spec;
  EXPECT_EQ(spec.layers, 2);
  EXPECT_EQ(spec.hidden_size, kHidden);
  EXPECT_EQ(spec.vocab_size, 100);
  EXPECT_EQ(spec.embedding_rows, 100);
  EXPECT_EQ(spec.context_length, kContext);
  EXPECT_EQ(spec.prefill_chunk, kChunk);
  EXPECT_EQ(spec.max_prompt_length, kChunk);
  EXPECT_FALSE(spec.history());
  EXPECT_FALSE(spec.dynamic_prefill);
  EXPECT_EQ(spec.decode_rows, 1);
  ASSERT_EQ(spec.decode_variants.size(), 1U);
  EXPECT_EQ(spec.decode_variants[0].rows, 1);
  EXPECT_EQ(spec.decode_variants[0].length, kContext);
  EXPECT_EQ(spec.head, HeadKind::kLogits);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.head_dim, 4);
  EXPECT_EQ(spec.dtype, kHalf);
  EXPECT_EQ(spec.kv_bytes_per_slot, 2ULL * 2 * kContext * 2 * 4 * 2);
  EXPECT_TRUE(spec.features.empty());
}

TEST(DiscoveryTest, ReadsHistoryAndShapeVariants) {
  const Nets nets = history_model();
  const ModelNets model = discover(nets);
  EXPECT_TRUE(model.spec.history());
  EXPECT_EQ(model.spec.max_prompt_length, kContext - 1);
  EXPECT_EQ(model.decode_variants, (std::vector<std::size_t>{2, 1, 0}));
  EXPECT_EQ(model.spec.features,
            (std::vector<std::string>{"decode-variants", "dynamic-prefill", "history"}));
  EXPECT_EQ(model.layers[1].history, &nets[7]);
}

TEST(DiscoveryTest, ReadsASharedPrefixUnderBothNamings) {
  for (const Nets& nets : {share_model(), prompt_model()}) {
    const ModelNets model = discover(nets);
    EXPECT_EQ(model.spec.prefill_chunk, kChunk);
    EXPECT_EQ(model.spec.history_chunk, kRest);
    EXPECT_EQ(model.spec.max_history, kChunk);
    EXPECT_EQ(model.spec.max_prompt_length, kChunk + kRest);
    EXPECT_EQ(model.spec.features, (std::vector<std::string>{"history", "shared-prefix"}));
    EXPECT_EQ(model.layers[1].prefill->variants[0].inputs.size(), 3U);
    EXPECT_EQ(model.layers[1].history->variants[0].inputs.size(), 5U);
    EXPECT_GE(model.history_embedding.rows, kRest);
  }
}

TEST(DiscoveryTest, RefusesNetsBehindAPrefixThatDoNotFit) {
  Nets nets = static_model();
  nets.push_back(make_net("block_prompt_0", {}, {}));
  nets.push_back(make_net("block_prompt_1", {}, {}));
  EXPECT_PRED2(contains, refusal(nets), "net block_prompt_0 has no shape variant with inputs");
  nets = share_model();
  remove(nets, "block_unshare_1");
  EXPECT_PRED2(contains, refusal(nets), "a net block_unshare_<i> in all layers or in none");
  nets = share_model();
  net_of(nets, "block_unshare_1").dynamic = true;
  EXPECT_PRED2(contains, refusal(nets), "net block_unshare_1: expected one shape variant, static");
  nets = share_model();
  for (const char* name : {"block_unshare_0", "block_unshare_1"}) net_of(nets, name).dynamic = true;
  EXPECT_EQ(discover(nets).spec.history_chunk, kRest);
  nets = share_model();
  for (const char* name : {"block_unshare_0", "block_unshare_1"}) {
    std::vector<Port>& inputs = net_of(nets, name).variants[0].inputs;
    inputs.erase(inputs.begin() + port::kMask);
  }
  EXPECT_PRED2(contains, refusal(nets), "expected a dynamic net, for it has no mask input");
  nets = share_model();
  net_of(nets, "block_unshare_0").variants[0].inputs[port::kMask].shape = {1, 1, kRest, kRest};
  EXPECT_PRED2(contains, refusal(nets), "net block_unshare_0, mask");
  nets = share_model();
  net_of(nets, "embedding_unshare") = embedding("embedding_unshare", kRest - 1);
  EXPECT_PRED2(contains, refusal(nets), "the 8 tokens of block_unshare_0, not 7");
  nets = share_model();
  net_of(nets, "block_cache_0") = decode(0, {kRest});
  net_of(nets, "block_cache_1") = decode(1, {kRest});
  EXPECT_PRED2(contains, refusal(nets), "a history of at most 8 rows, the context, not 16");
}

TEST(DiscoveryTest, AFullContextPromptLeavesARowForTheCompletion) {
  Nets nets = static_model();
  net_of(nets, "block_cache_0") = decode(0, {kChunk});
  net_of(nets, "block_cache_1") = decode(1, {kChunk});
  EXPECT_EQ(discover(nets).spec.max_prompt_length, kChunk - 1);
  EXPECT_EQ(discover(nets).spec.prefill_chunk, kChunk - 1);
}

TEST(DiscoveryTest, TakesAnArgmaxHead) {
  Nets nets = static_model();
  net_of(nets, "lm_head").variants[0].outputs = {make_port("token_id", DType::kInt32, {1, 1})};
  EXPECT_EQ(discover(nets).spec.head, HeadKind::kArgmax);
  EXPECT_EQ(discover(nets).spec.vocab_size, 0);
  EXPECT_EQ(discover(nets).spec.embedding_rows, 0);
}

TEST(DiscoveryTest, TakesAnEmbeddingWithTwoShapeVariants) {
  Nets nets = static_model();
  remove(nets, "embedding_cache");
  EXPECT_PRED2(contains, refusal(nets), "net embedding: expected a shape variant for one token");
  net_of(nets, "embedding").variants.push_back(embedding("", 1).variants[0]);
  const ModelNets model = discover(nets);
  EXPECT_EQ(model.prefill_embedding.rows, kChunk);
  EXPECT_EQ(model.decode_embedding.by_rows.size(), 1U);
  EXPECT_EQ(model.decode_embedding.net, model.prefill_embedding.net);
}

TEST(DiscoveryTest, TakesTheNamesOf2023) {
  Nets nets = static_model();
  for (Net& net : nets) {
    if (net.name.rfind("block_", 0) == 0) net.name = "qwen_" + net.name;
  }
  EXPECT_EQ(discover(nets).spec.layers, 2);
}

TEST(DiscoveryTest, TakesPositionsOfThreeAxes) {
  Nets nets = static_model();
  for (const char* name : {"block_0", "block_1"}) {
    net_of(nets, name).variants[0].inputs[port::kPositions].shape = {3, kChunk};
  }
  EXPECT_EQ(discover(nets).spec.layers, 2);
  net_of(nets, "block_1").variants[0].inputs[port::kPositions].shape = {2, kChunk};
  EXPECT_PRED2(contains, refusal(nets),
               "net block_1, positions (position_ids): expected int32 [1, 16]");
}

TEST(DiscoveryTest, ReportsHeadsAndVisionAsFeatures) {
  Nets nets = static_model();
  nets.push_back(make_net("greedy_head", {}, {}));
  nets.push_back(make_net("vit", {}, {}));
  EXPECT_EQ(discover(nets).spec.features, (std::vector<std::string>{"greedy-head", "vit"}));
}

TEST(DiscoveryTest, NamesANetThatIsMissing) {
  EXPECT_PRED2(contains, refusal({}), "no net block_0");
  for (const char* name : {"embedding", "lm_head", "block_1", "block_cache_0"}) {
    Nets nets = static_model();
    remove(nets, name);
    EXPECT_PRED2(contains, refusal(nets), std::string("no net ") + name) << name;
  }
  Nets nets = history_model();
  remove(nets, "block_kv_1");
  EXPECT_PRED2(contains, refusal(nets), "layer 1: expected a net block_kv_");
}

TEST(DiscoveryTest, NamesANetThatIsNotKnown) {
  Nets nets = static_model();
  nets.push_back(make_net("block_other_0", {}, {}));
  EXPECT_PRED2(contains, refusal(nets), "net block_other_0 is not known");
  nets = static_model();
  nets.push_back(static_prefill(3));  // a gap: there is no layer 2
  EXPECT_PRED2(contains, refusal(nets), "net block_3 is not known");
}

TEST(DiscoveryTest, NamesTensorAndExpectationOfAMismatch) {
  struct Case {
    const char* net;
    bool input;
    std::size_t index;
    Shape shape;
    const char* text;
  };
  const Case cases[] = {
      {"block_1",
       true,
       0,
       {1, kChunk, 9},
       "hidden states (input_states): expected float16 [1, 16, 8], not float16 [1, 16, 9]"},
      {"block_0", true, 2, {1, 1, kChunk, 17}, "mask (attention_mask): expected [1, 1, 16, 16]"},
      {"block_0", false, 1, {1, kChunk, 3, 4}, "k (k): expected float16 [1, 16, 2, 4]"},
      {"block_cache_1",
       true,
       3,
       {1, 63, 2, 4},
       "history k (history_k): expected float16 [1, 64, 2, 4]"},
      {"block_cache_0", true, 2, {1, 1, 1, 64}, "mask (mask): expected [1, 1, 1, 65]"},
      {"block_cache_1", false, 2, {1, 2, 2, 4}, "v (v): expected float16 [1, 1, 2, 4]"},
      {"lm_head", true, 0, {1, 9}, "hidden state (hidden_states): expected float16 [any, 8]"},
      {"lm_head", false, 0, {2, 100}, "logits (logits): expected [1, 100], not float32 [2, 100]"},
      {"embedding_cache",
       false,
       0,
       {1, 2, 8},
       "hidden states (input_states): expected float16 [1, 1, 8]"},
  };
  for (const Case& c : cases) {
    Nets nets = static_model();
    ShapeVariant& variant = net_of(nets, c.net).variants[0];
    (c.input ? variant.inputs : variant.outputs)[c.index].shape = c.shape;
    EXPECT_PRED2(contains, refusal(nets), std::string("net ") + c.net + ", " + c.text);
  }
}

TEST(DiscoveryTest, NamesAnElementTypeThatDiffers) {
  Nets nets = static_model();
  net_of(nets, "block_cache_0").variants[0].inputs[4].dtype = DType::kBfloat16;
  EXPECT_PRED2(contains, refusal(nets), "expected float16 [1, 64, 2, 4], not bfloat16");
  nets = static_model();
  net_of(nets, "block_cache_0").variants[0].inputs[2].dtype = DType::kInt32;
  EXPECT_PRED2(contains, refusal(nets), "net block_cache_0, mask: expected floats, not int32");
}

TEST(DiscoveryTest, NamesWhatANetLacks) {
  Nets nets = static_model();
  net_of(nets, "block_cache_1").io_alone = false;
  EXPECT_PRED2(contains, refusal(nets),
               "net block_cache_1: expected to be compiled with addr_mode io_alone");
  nets = static_model();
  net_of(nets, "block_1").dynamic = true;
  EXPECT_PRED2(contains, refusal(nets),
               "net block_1: expected one shape variant, static as block_0");
  nets = static_model();
  net_of(nets, "block_0").variants[0].inputs.pop_back();
  EXPECT_PRED2(contains, refusal(nets),
               "net block_0: expected 3 inputs and 3 outputs, not 2 and 3");
  nets = history_model();
  net_of(nets, "block_kv_0").dynamic = false;
  EXPECT_PRED2(contains, refusal(nets), "net block_kv_0: expected a dynamic net");
  nets = history_model();
  net_of(nets, "block_cache_1").variants.pop_back();
  EXPECT_PRED2(contains, refusal(nets),
               "net block_cache_1: expected 3 shape variants as block_cache_0");
  nets = history_model();
  net_of(nets, "block_cache_0").variants[1].inputs[3].memory.address = 4096;
  EXPECT_PRED2(contains, refusal(nets),
               "expected all shape variants to share the memory of their history");
}

// A batch of `slots` whose decode nets have variants of these rows and lengths.
Net batched_decode(int layer, int slots, const std::vector<DecodeShape>& shapes) {
  Net net = decode(layer, {});
  for (const DecodeShape& shape : shapes) {
    ShapeVariant variant = {{make_port("input_states", kHalf, {shape.rows, 1, kHidden}),
                             make_port("position_ids", DType::kInt32, {shape.rows, 1}),
                             make_port("mask", kHalf, {shape.rows, 1, 1, shape.length + 1})},
                            {make_port("states", kHalf, {shape.rows, 1, kHidden})}};
    for (int slot = 0; slot < slots; ++slot) {
      for (const char* name : {"history_k", "history_v"}) {
        variant.inputs.push_back(kv(name, shape.length));
        variant.inputs.back().memory.address =
            static_cast<std::uint64_t>(4096 * variant.inputs.size());
        variant.outputs.push_back(kv(name, 1));
      }
    }
    net.variants.push_back(std::move(variant));
  }
  return net;
}

Nets batched_model() {
  Nets nets = static_model();
  const std::vector<DecodeShape> shapes = {{3, kContext}, {3, 32}, {1, kContext}, {1, 32}};
  for (int layer = 0; layer < 2; ++layer) {
    net_of(nets, "block_cache_" + std::to_string(layer)) = batched_decode(layer, 3, shapes);
  }
  net_of(nets, "embedding_cache")
      .variants.push_back({{make_port("ids", DType::kInt32, {3, 1})},
                           {make_port("states", kHalf, {3, 1, kHidden})}});
  net_of(nets, "lm_head")
      .variants.push_back({{make_port("states", kHalf, {3, kHidden})},
                           {make_port("logits", DType::kFloat32, {3, 100})}});
  return nets;
}

TEST(DiscoveryTest, ReadsABatch) {
  const Nets nets = batched_model();
  const ModelNets model = discover(nets);
  EXPECT_EQ(model.spec.decode_rows, 3);
  EXPECT_EQ(model.spec.context_length, kContext);
  EXPECT_EQ(model.spec.kv_bytes_per_slot, 2ULL * 2 * kContext * 2 * 4 * 2);
  EXPECT_EQ(model.decode_variants, (std::vector<std::size_t>{3, 2, 1, 0}));
  EXPECT_EQ(model.spec.decode_variants[1].rows, 1);
  EXPECT_EQ(model.spec.decode_variants[1].length, kContext);
  EXPECT_EQ(model.spec.decode_variants[2].rows, 3);
  EXPECT_EQ(model.spec.decode_variants[2].length, 32);
  EXPECT_EQ(model.head.widest().inputs[0].shape[0], 3);
  EXPECT_EQ(model.spec.features, (std::vector<std::string>{"batched-decode", "decode-variants"}));
}

TEST(DiscoveryTest, ABatchOfThreeHasNoPositionsOfThreeAxes) {
  Nets nets = batched_model();
  net_of(nets, "block_cache_1").variants[2].inputs[port::kPositions].shape = {3, 1};
  EXPECT_PRED2(contains, refusal(nets),
               "net block_cache_1, positions (position_ids): expected int32 [1, 1]");
}

TEST(DiscoveryTest, NamesWhatABatchLacks) {
  Nets nets = batched_model();
  net_of(nets, "embedding_cache").variants.pop_back();
  EXPECT_EQ(refusal(nets), "net embedding_cache: expected a shape variant for 3 rows");
  nets = batched_model();
  net_of(nets, "lm_head").variants.pop_back();
  EXPECT_EQ(refusal(nets), "net lm_head: expected a shape variant for 3 rows");
  nets = batched_model();
  auto& heads = net_of(nets, "lm_head").variants;
  heads.erase(heads.begin());
  EXPECT_EQ(refusal(nets), "net lm_head: expected a shape variant for one token");
  nets = batched_model();
  auto& variants = net_of(nets, "block_cache_0").variants;
  variants.erase(variants.begin());
  EXPECT_EQ(refusal(nets),
            "net block_cache_0: expected a shape variant for all 3 slots and 64 rows of history");
}

TEST(DiscoveryTest, NamesTheSlotThatDiffers) {
  Nets nets = batched_model();
  net_of(nets, "block_cache_1").variants[1].inputs[8].memory.address = 1;
  EXPECT_PRED2(contains, refusal(nets), "net block_cache_1: expected all shape variants to share");
  nets = batched_model();
  net_of(nets, "block_cache_1").variants[1].outputs[6].shape = {1, 1, 3, 4};
  EXPECT_PRED2(contains, refusal(nets), "net block_cache_1, v (history_v): expected float16 [1, 1");
  nets = batched_model();
  net_of(nets, "block_cache_0").variants[0].inputs.pop_back();
  EXPECT_PRED2(contains, refusal(nets), "net block_cache_0: expected 5 inputs and 3 outputs");
}

TEST(DiscoveryTest, ABatchNeedsAHistoryForEverySlot) {
  Nets nets = static_model();
  for (Port& port : net_of(nets, "block_cache_0").variants[0].inputs) port.shape.set(0, 4);
  EXPECT_PRED2(contains, refusal(nets), "net block_cache_0: expected a shape variant for all 1");
}

Nets part(Nets nets, int first_layer) {
  for (Net& net : nets) {
    const std::size_t end = net.name.find_last_of('_');
    if (net.name.compare(0, 6, "block_") != 0) continue;
    net.name = net.name.substr(0, end + 1) +
               std::to_string(std::stoi(net.name.substr(end + 1)) + first_layer);
  }
  return nets;
}

class JoinTest : public testing::Test {
 protected:
  JoinTest() {
    remove(first_, "lm_head");
    remove(last_, "embedding");
    remove(last_, "embedding_cache");
  }

  ModelSpec joined() const {
    const ModelNets first = discover(first_, {true, false});
    const ModelNets last = discover(last_, {false, true});
    return join({&first, &last});
  }
  std::string refusal_of_join() const {
    return error_of<BmodelError>([this] { joined(); });
  }

  Nets first_ = history_model();
  Nets last_ = part(history_model(), 2);
};

TEST_F(JoinTest, TwoPartsAreOneModel) {
  const ModelSpec whole = discover(history_model()).spec;
  const ModelSpec model = joined();
  EXPECT_EQ(model.layers, 4);
  EXPECT_EQ(model.vocab_size, 100);
  EXPECT_EQ(model.embedding_rows, 100);
  EXPECT_EQ(model.max_prompt_length, whole.max_prompt_length);
  EXPECT_EQ(model.kv_bytes_per_slot, 2 * whole.kv_bytes_per_slot);
  EXPECT_EQ(model.features, whole.features);
}

TEST_F(JoinTest, APartBeginsWhereTheOneBeforeEnds) {
  last_ = part(last_, 1);
  EXPECT_EQ(refusal_of_join(),
            "part 1 begins with layer 3: expected layer 2, behind those of the parts before it");
}

TEST_F(JoinTest, PartsHaveTheSameShapes) {
  for (const char* name : {"block_cache_2", "block_cache_3"})
    net_of(last_, name).variants.pop_back();
  EXPECT_PRED2(contains, refusal_of_join(), "part 1 has other shapes");
}

TEST_F(JoinTest, OnlyTheEndsHaveEmbeddingAndHead) {
  first_.push_back(head());
  EXPECT_PRED2(contains, refusal_of_join(), "net lm_head is not known");
}

}  // namespace
}  // namespace tpuserve::engine
