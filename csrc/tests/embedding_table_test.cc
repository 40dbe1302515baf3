// A table of hidden states on the host in place of embedding nets: the same bits.
#include "engine/embedding_table.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "emulator_fixture.h"
#include "test_support.h"
#include "tpuserve/engine/engine.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {
namespace {

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

constexpr const char* kTable = "tests/fixtures/models/disk/embedding.bin";
constexpr const char* kWithoutNets = "tests/fixtures/models/disk/demo_f16_disk.bmodel";
constexpr const char* kStatic = "tests/fixtures/models/static/demo_f16_static.bmodel";
constexpr const char* kHistory = "models/demo/demo_f16.bmodel";
constexpr const char* kBatch = "tests/fixtures/models/batch4/demo_f16_batch4.bmodel";
constexpr const char* kArgmax = "tests/fixtures/models/argmax/demo_f16_argmax.bmodel";
constexpr const char* kFirst = "tests/fixtures/models/chips2/demo_f16.chip0.bmodel";
constexpr const char* kSecond = "tests/fixtures/models/chips2/demo_f16.chip1.bmodel";

ModelSpec spec_of(int vocab, bool images) {
  ModelSpec spec;
  spec.hidden_size = 4;
  spec.vocab_size = vocab;
  if (images) spec.vision.emplace();
  return spec;
}

TEST(EmbeddingTableTest, ReadsRowsByTheirIds) {
  const TemporaryDirectory directory;
  const EmbeddingTable table(directory.write("embedding.bin", "aaaaaaaabbbbbbbbcccccccc"));
  const Ids ids = {2, 0, 2};
  std::string rows(24, ' ');
  table.copy(ids.data(), ids.size(), 8, reinterpret_cast<std::uint8_t*>(rows.data()));
  EXPECT_EQ(rows, "ccccccccaaaaaaaacccccccc");
}

TEST(EmbeddingTableTest, HasARowForEachTokenOfTheVocabulary) {
  const TemporaryDirectory directory;
  const EmbeddingTable table(directory.write("embedding.bin", std::string(24, 'a')));
  EXPECT_EQ(table.rows_for(spec_of(3, false)), 3);
  EXPECT_EQ(table.rows_for(spec_of(2, true)), 3);   // one for images
  EXPECT_EQ(table.rows_for(spec_of(0, false)), 3);  // an argmax head
  for (const ModelSpec& spec : {spec_of(4, false), spec_of(2, false), spec_of(4, true)}) {
    const std::string text = error_of<BmodelError>([&] { table.rows_for(spec); });
    EXPECT_PRED2(contains, text, "embedding.bin has 24 bytes: expected");
    EXPECT_PRED2(contains, text, "rows of 8 bytes (4 float16)");
  }
}

TEST(EmbeddingTableTest, RefusesPartsOfARowAndNoFile) {
  const TemporaryDirectory directory;
  const EmbeddingTable table(directory.write("embedding.bin", std::string(23, 'a')));
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { table.rows_for(spec_of(0, false)); }),
               "23 bytes: expected rows of 8 bytes");
  const std::string empty = directory.write("empty.bin", "");
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { EmbeddingTable{empty}; }), "is empty");
  const std::string missing = (directory.path() / "missing.bin").string();
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { EmbeddingTable{missing}; }),
               "missing.bin: No such file");
}

class TableOnEmulatorTest : public EmulatorTest {
 protected:
  std::unique_ptr<Engine> open(const std::vector<const char*>& names, int slots,
                               const std::string& table) {
    std::vector<runtime::BmodelSource> parts;
    std::vector<int> chips;
    for (const char* name : names) {
      chips.push_back(static_cast<int>(parts.size()));
      parts.push_back(bmodel(name));
    }
    return std::make_unique<Engine>(library_, parts, chips, EngineOptions{slots, false, table});
  }
  std::string table() { return bmodel(kTable); }
};

Ids counting(std::size_t count, int first) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = (first + static_cast<int>(i) * 7) % 1000;
  return ids;
}

// Logits or tokens of what an engine of two slots or more does, one behind the other.
std::vector<Logits> exercise(Engine& engine) {
  const std::size_t width = static_cast<std::size_t>(std::max(1, engine.spec().vocab_size));
  std::vector<Logits> rows;
  const auto head = [&](std::size_t count, auto work) {
    Logits logits(count * width);
    Ids tokens(count);
    const bool argmax = engine.spec().head == HeadKind::kArgmax;
    work(HeadRows{argmax ? nullptr : logits.data(), argmax ? tokens.data() : nullptr});
    if (argmax) logits.assign(tokens.begin(), tokens.end());
    rows.push_back(logits);
  };
  const auto prefill = [&](int slot, const Ids& ids, int position) {
    head(1, [&](const HeadRows& row) {
      engine.prefill(slot, ids.data(), ids.size(), position, &row);
    });
  };
  prefill(0, counting(40, 1), 0);
  prefill(1, counting(7, 5), 0);
  if (engine.spec().history()) prefill(1, counting(10, 9), 7);
  for (int step = 0; step < 3; ++step) {
    const Ids ids = {600 + step, 40 + step};
    head(2, [&](const HeadRows& both) { engine.decode({1, 0}, ids.data(), both); });
    head(1, [&](const HeadRows& one) { engine.decode({1}, ids.data(), one); });
  }
  return rows;
}

TEST_F(TableOnEmulatorTest, GivesTheBitsOfAnEmbeddingNet) {
  const auto with_nets = open({kStatic}, 2, "");
  const auto without = open({kWithoutNets}, 2, table());
  EXPECT_EQ(exercise(*without), exercise(*with_nets));
  EXPECT_EQ(without->spec().embedding_rows, 1024);
  const std::vector<std::string>& features = without->spec().features;
  EXPECT_NE(std::find(features.begin(), features.end(), "embedding-disk"), features.end());
}

TEST_F(TableOnEmulatorTest, TakesThePlaceOfTheNetsInEveryKindOfModel) {
  for (const std::vector<const char*>& model :
       std::vector<std::vector<const char*>>{{kHistory}, {kBatch}, {kArgmax}, {kFirst, kSecond}}) {
    SCOPED_TRACE(model[0]);
    const auto with_nets = open(model, 2, "");
    const auto without = open(model, 2, table());
    EXPECT_EQ(exercise(*without), exercise(*with_nets));
    EXPECT_LT(without->launches(), with_nets->launches());
  }
}

TEST_F(TableOnEmulatorTest, RefusesATableOfAnotherModel) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("embedding.bin", std::string(1000 * 256, 'a'));
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { open({kWithoutNets}, 1, path); }),
               "embedding.bin has 256000 bytes: expected 1024 rows of 256 bytes (128 float16)");
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { open({kWithoutNets}, 1, ""); }),
               "no net embedding (token ids to hidden states of a prompt; a bmodel without it has "
               "an embedding.bin beside it)");
}

TEST_F(TableOnEmulatorTest, RefusesIdsThatTheTableLacks) {
  const auto engine = open({kWithoutNets}, 1, table());
  const Ids ids = {5, 1024};
  EXPECT_PRED2(contains, error_of<std::invalid_argument>([&] {
                 engine->prefill(0, ids.data(), 2, 0, nullptr);
               }),
               "ids[1] = 1024: expected 0 to 1023");
}

}  // namespace
}  // namespace tpuserve::engine
