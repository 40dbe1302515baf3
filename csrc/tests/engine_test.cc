// The engine on the chip emulator. That its logits are right is checked against a reference by the
// golden tests in Python; here: its rules, and that slots do not disturb each other.
#include "tpuserve/engine/engine.h"

#include <functional>
#include <stdexcept>
#include <vector>

#include "emulator_fixture.h"
#include "test_support.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {
namespace {

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

constexpr const char* kHistoryModel = "models/demo/demo_f16.bmodel";
constexpr const char* kStaticModel = "tests/fixtures/models/static/demo_f16_static.bmodel";
constexpr const char* kBatchModel = "tests/fixtures/models/batch4/demo_f16_batch4.bmodel";
constexpr const char* kArgmaxModel = "tests/fixtures/models/argmax/demo_f16_argmax.bmodel";

class EngineTest : public EmulatorTest {
 protected:
  std::unique_ptr<Engine> open(const char* model, int slots, bool deterministic = false) {
    return std::make_unique<Engine>(library_, std::vector<runtime::BmodelSource>{bmodel(model)},
                                    std::vector<int>{0}, EngineOptions{slots, deterministic});
  }
};

Logits prefill(Engine& engine, int slot, const Ids& ids, int position = 0) {
  Logits logits(static_cast<std::size_t>(engine.spec().vocab_size));
  const HeadRows row{logits.data(), nullptr};
  engine.prefill(slot, ids.data(), ids.size(), position, &row);
  return logits;
}

std::vector<Logits> decode(Engine& engine, const std::vector<int>& slots, const Ids& ids) {
  const auto width = static_cast<std::size_t>(engine.spec().vocab_size);
  Logits flat(width * slots.size());
  engine.decode(slots, ids.data(), {flat.data(), nullptr});
  std::vector<Logits> rows;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(i * width);
    rows.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(width));
  }
  return rows;
}

Ids counting(std::size_t count, int first) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = (first + static_cast<int>(i) * 7) % 1000;
  return ids;
}

std::string refusal_of(const std::function<void()>& call) {
  return error_of<std::invalid_argument>(call);
}

TEST_F(EngineTest, InterleavedSlotsGiveTheBitsOfLoneOnes) {
  const auto engine = open(kHistoryModel, 2);
  const Ids first = counting(20, 3);
  const Ids second = counting(70 % 64 + 5, 500);
  // Alone, one after the other in slot 0.
  std::vector<std::vector<Logits>> lone(2);
  for (std::size_t i = 0; i < 2; ++i) {
    lone[i].push_back(prefill(*engine, 0, i == 0 ? first : second));
    for (int step = 0; step < 3; ++step) {
      lone[i].push_back(decode(*engine, {0}, {100 + step}).front());
    }
  }
  EXPECT_EQ(prefill(*engine, 0, first), lone[0][0]);
  EXPECT_EQ(prefill(*engine, 1, second), lone[1][0]);
  for (std::size_t step = 0; step < 3; ++step) {
    const std::int32_t id = 100 + static_cast<std::int32_t>(step);
    const std::vector<Logits> rows = decode(*engine, {1, 0}, {id, id});
    EXPECT_EQ(rows[0], lone[1][step + 1]);
    EXPECT_EQ(rows[1], lone[0][step + 1]);
  }
  EXPECT_EQ(engine->length(0), 23);
  EXPECT_EQ(engine->length(1), static_cast<int>(second.size()) + 3);
}

TEST_F(EngineTest, ACopiedPrefixContinuesAsTheOriginal) {
  const auto engine = open(kHistoryModel, 2);
  prefill(*engine, 0, counting(30, 1));
  prefill(*engine, 1, counting(40, 9));
  engine->copy_prefix(0, 1, 30);
  EXPECT_EQ(engine->length(1), 30);
  const std::vector<Logits> rows = decode(*engine, {0, 1}, {5, 5});
  EXPECT_EQ(rows[0], rows[1]);
  engine->copy_prefix(0, 0, 10);
  EXPECT_EQ(engine->length(0), 10);
}

TEST_F(EngineTest, RewindingForgetsTheRowsAbove) {
  const auto engine = open(kHistoryModel, 1);
  prefill(*engine, 0, counting(20, 1));
  const Logits straight = prefill(*engine, 0, counting(4, 50), 20);
  prefill(*engine, 0, counting(9, 700), 20);
  EXPECT_EQ(engine->length(0), 29);
  EXPECT_EQ(prefill(*engine, 0, counting(4, 50), 20), straight);
  EXPECT_EQ(engine->length(0), 24);
}

TEST_F(EngineTest, PrefillWithoutTheHeadFillsTheSameRows) {
  const auto engine = open(kHistoryModel, 2);
  const Ids ids = counting(12, 4);
  prefill(*engine, 0, ids);
  engine->prefill(1, ids.data(), ids.size(), 0, nullptr);
  const std::vector<Logits> rows = decode(*engine, {0, 1}, {8, 8});
  EXPECT_EQ(rows[0], rows[1]);
}

TEST_F(EngineTest, ABatchGivesTheBitsOfLoneRequests) {
  const auto engine = open(kBatchModel, 4, /*deterministic=*/true);
  std::vector<Logits> lone;
  for (int slot = 0; slot < 4; ++slot) {
    prefill(*engine, slot, counting(static_cast<std::size_t>(5 + 15 * slot), slot));
    lone.push_back(decode(*engine, {slot}, {7}).front());
    engine->free(slot);
  }
  for (int slot = 0; slot < 4; ++slot) {
    prefill(*engine, slot, counting(static_cast<std::size_t>(5 + 15 * slot), slot));
  }
  const std::uint64_t before = engine->launches();
  const std::vector<Logits> rows = decode(*engine, {2, 0, 3, 1}, {7, 7, 7, 7});
  EXPECT_EQ(engine->launches() - before, static_cast<std::uint64_t>(engine->spec().layers) + 2);
  EXPECT_EQ(rows, (std::vector<Logits>{lone[2], lone[0], lone[3], lone[1]}));
}

TEST_F(EngineTest, ABatchHasNoMoreSlotsThanItWasCompiledFor) {
  EXPECT_EQ(open(kBatchModel, 3)->spec().decode_rows, 4);
  EXPECT_EQ(refusal_of([&] { open(kBatchModel, 5); }),
            "slots = 5: " + bmodel(kBatchModel) + " was compiled for a batch of 4");
}

TEST_F(EngineTest, SavedRowsAreRestoredIntoAnySlot) {
  for (const char* model : {kBatchModel, kHistoryModel}) {
    const auto engine = open(model, 2, /*deterministic=*/true);
    prefill(*engine, 0, counting(30, 1));
    const auto layers = static_cast<std::size_t>(engine->spec().layers);
    std::vector<std::uint8_t> data(layers * 2 * 30 * engine->kv_row_bytes());
    engine->save(0, data.data());
    const Logits expected = decode(*engine, {0}, {5}).front();
    prefill(*engine, 1, counting(40, 9));
    engine->restore(1, data.data(), 30, 30);
    EXPECT_EQ(engine->length(1), 30);
    EXPECT_EQ(decode(*engine, {1}, {5}).front(), expected);
    EXPECT_EQ(refusal_of([&] { engine->restore(1, data.data(), 30, 31); }),
              "tokens = 31: expected 0 to 30");
  }
}

TEST_F(EngineTest, AnArgmaxHeadReturnsTokens) {
  const auto engine = open(kArgmaxModel, 2);
  EXPECT_EQ(engine->spec().head, HeadKind::kArgmax);
  Ids tokens = {-1, -1};
  const HeadRows rows{nullptr, tokens.data()};
  for (int slot = 0; slot < 2; ++slot) {
    const Ids ids = counting(5, slot * 100);
    engine->prefill(slot, ids.data(), ids.size(), 0, &rows);
    EXPECT_GE(tokens[0], 0);
  }
  tokens = {-1, -1};
  const Ids ids = {1, 2};
  engine->decode({0, 1}, ids.data(), rows);
  for (const std::int32_t token : tokens) {
    EXPECT_GE(token, 0);
    EXPECT_LT(token, engine->spec().embedding_rows);
  }
  const Ids outside = {engine->spec().embedding_rows};
  EXPECT_PRED2(contains, refusal_of([&] { engine->decode({0}, outside.data(), rows); }), "ids[0]");
}

TEST_F(EngineTest, ArgumentsOutOfRangeNameValueAndLimit) {
  const auto engine = open(kHistoryModel, 2);
  const ModelSpec spec = engine->spec();
  const auto prefill_refusal = [&](int slot, const Ids& ids, int position) {
    return refusal_of([&] { engine->prefill(slot, ids.data(), ids.size(), position, nullptr); });
  };
  const Ids fine = counting(3, 0);
  EXPECT_EQ(prefill_refusal(2, fine, 0), "slot 2: expected 0 to 1");
  EXPECT_EQ(prefill_refusal(-1, fine, 0), "slot -1: expected 0 to 1");
  EXPECT_PRED2(contains, prefill_refusal(0, {}, 0), "0 ids: one prefill takes 1 to ");
  EXPECT_PRED2(contains,
               prefill_refusal(0, Ids(static_cast<std::size_t>(spec.prefill_chunk) + 1), 0),
               "one prefill takes 1 to " + std::to_string(spec.prefill_chunk));
  EXPECT_EQ(prefill_refusal(0, fine, 1), "position 1: expected 0 to 0");
  EXPECT_PRED2(contains, prefill_refusal(0, {0, spec.vocab_size}, 0),
               "ids[1] = " + std::to_string(spec.vocab_size));
  EXPECT_PRED2(contains, prefill_refusal(0, {-1}, 0), "ids[0] = -1");

  const Ids one = {1, 1};
  std::vector<float> unused(2 * static_cast<std::size_t>(spec.vocab_size));
  const auto decode_refusal = [&](const std::vector<int>& slots) {
    return refusal_of([&] { engine->decode(slots, one.data(), {unused.data(), nullptr}); });
  };
  EXPECT_PRED2(contains, decode_refusal({0}), "slot 0 holds no tokens");
  prefill(*engine, 0, fine);
  EXPECT_EQ(decode_refusal({0, 0}), "slot 0 is given twice");
  EXPECT_EQ(decode_refusal({3}), "slot 3: expected 0 to 1");
  EXPECT_PRED2(contains, refusal_of([&] { engine->copy_prefix(0, 1, 4); }),
               "tokens = 4: slot 0 holds 3");
  engine->free(0);
  EXPECT_EQ(engine->length(0), 0);
}

TEST_F(EngineTest, TheContextEndsAtItsLastRow) {
  const auto engine = open(kStaticModel, 1);
  const ModelSpec spec = engine->spec();
  ASSERT_FALSE(spec.history());
  const Ids ids = counting(static_cast<std::size_t>(spec.max_prompt_length), 0);
  prefill(*engine, 0, ids);
  for (int length = engine->length(0); length < spec.context_length; ++length) {
    decode(*engine, {0}, {1});
  }
  EXPECT_EQ(engine->length(0), spec.context_length);
  EXPECT_PRED2(contains, refusal_of([&] { decode(*engine, {0}, {1}); }), "slot 0 is full");
  EXPECT_PRED2(contains, refusal_of([&] { prefill(*engine, 0, {1}, 1); }),
               "no prefill with history");
}

TEST_F(EngineTest, EachPartHasOneChip) {
  const std::vector<runtime::BmodelSource> part = {bmodel(kStaticModel)};
  EXPECT_PRED2(contains, refusal_of([&] { Engine(library_, part, {0, 1}, {}); }),
               "2 chips given: a model of 1 part runs on exactly as many chips");
  EXPECT_PRED2(contains, refusal_of([&] { Engine(library_, part, {}, {}); }), "0 chips given");
  EXPECT_EQ(refusal_of([&] { Engine(library_, {part[0], part[0]}, {0, 0}, {}); }),
            "chip 0 is given twice");
  EXPECT_PRED2(contains, refusal_of([&] { Engine(library_, part, {0}, {0, false}); }), "slots = 0");
}

TEST_F(EngineTest, AClosedEngineSaysSo) {
  const auto engine = open(kStaticModel, 1);
  engine->close();
  engine->close();
  EXPECT_EQ(error_of<CoreError>([&] { (void)engine->length(0); }), "the engine is closed");
  EXPECT_EQ(engine->spec().layers, 3);
}

TEST_F(EngineTest, ANetsErrorNamesTheFile) {
  EXPECT_PRED2(contains,
               error_of<BmodelError>([&] { Engine(library_, {"/nowhere.bmodel"}, {0}, {}); }),
               "/nowhere.bmodel");
}

}  // namespace
}  // namespace tpuserve::engine
