// A model on several emulated chips computes what it computes on one, bit for bit.
#include <chrono>
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

constexpr const char* kOneChip = "models/demo/demo_f16.bmodel";
constexpr const char* kFirst = "tests/fixtures/models/chips2/demo_f16.chip0.bmodel";
constexpr const char* kSecond = "tests/fixtures/models/chips2/demo_f16.chip1.bmodel";

class ChipsTest : public EmulatorTest {
 protected:
  std::unique_ptr<Engine> open_one(int slots) {
    return open({kOneChip}, std::vector<int>{0}, slots);
  }
  std::unique_ptr<Engine> open_two(int slots) { return open({kFirst, kSecond}, {3, 1}, slots); }
  std::unique_ptr<Engine> open(const std::vector<const char*>& names, const std::vector<int>& chips,
                               int slots) {
    std::vector<runtime::BmodelSource> parts;
    for (const char* name : names) parts.push_back(bmodel(name));
    return std::make_unique<Engine>(library_, parts, chips, EngineOptions{slots, false});
  }
  std::string refusal(const std::vector<const char*>& names, const std::vector<int>& chips) {
    return error_of<BmodelError>([&] { open(names, chips, 1); });
  }
};

Ids counting(std::size_t count, int first) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = (first + static_cast<int>(i) * 7) % 1000;
  return ids;
}

// What an engine answers to everything that it can do, one row after the other.
std::vector<Logits> exercise(Engine& engine) {
  const auto width = static_cast<std::size_t>(engine.spec().vocab_size);
  std::vector<Logits> rows;
  const auto prefill = [&](int slot, const Ids& ids, int position) {
    rows.emplace_back(width);
    const HeadRows row{rows.back().data(), nullptr};
    engine.prefill(slot, ids.data(), ids.size(), position, &row);
  };
  const auto decode = [&](const std::vector<int>& slots, const Ids& ids) {
    rows.emplace_back(width * slots.size());
    engine.decode(slots, ids.data(), {rows.back().data(), nullptr});
  };
  prefill(0, counting(40, 1), 0);
  prefill(1, counting(64, 5), 0);
  prefill(1, counting(10, 9), 64);  // behind a history
  const Ids silent = counting(12, 30);
  engine.prefill(2, silent.data(), silent.size(), 0, nullptr);
  decode({2, 0, 1}, {7, 8, 9});
  engine.copy_prefix(1, 3, 70);
  decode({3}, {11});
  std::vector<std::uint8_t> saved(static_cast<std::size_t>(engine.spec().layers) * 2 * 41 *
                                  engine.kv_row_bytes());
  engine.save(0, saved.data());
  engine.restore(2, saved.data(), 41, 30);
  decode({0, 2}, {3, 3});
  for (const std::uint8_t byte : saved) rows.back().push_back(byte);
  prefill(0, counting(8, 77), 0);
  return rows;
}

TEST_F(ChipsTest, TwoChipsGiveTheBitsOfOne) {
  const auto one = open_one(4);
  const auto two = open_two(4);
  EXPECT_EQ(two->spec().layers, one->spec().layers);
  EXPECT_EQ(two->spec().vocab_size, one->spec().vocab_size);
  EXPECT_EQ(two->spec().features, one->spec().features);
  EXPECT_EQ(two->spec().kv_bytes_per_slot, one->spec().kv_bytes_per_slot);
  EXPECT_EQ(two->nets().size(), one->nets().size());
  EXPECT_EQ(exercise(*two), exercise(*one));
  EXPECT_EQ(two->launches(), one->launches());
}

TEST_F(ChipsTest, ChipsWorkAtTheSameTime) {
  const auto engine = open_two(4);
  EXPECT_EQ(engine->groups(), 4);
  const Ids ids = counting(4, 3);
  for (int slot = 0; slot < 4; ++slot) engine->prefill(slot, ids.data(), 4, 0, nullptr);
  const std::vector<double> before = engine->busy_s();
  const auto start = std::chrono::steady_clock::now();
  std::vector<float> rows(4 * static_cast<std::size_t>(engine->spec().vocab_size));
  for (int step = 0; step < 8; ++step) {
    engine->decode({0, 1, 2, 3}, ids.data(), {rows.data(), nullptr});
  }
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double busy_s = 0;
  for (std::size_t chip = 0; chip < 2; ++chip) busy_s += engine->busy_s()[chip] - before[chip];
  EXPECT_GT(busy_s, elapsed_s);
}

TEST_F(ChipsTest, PartsThatDoNotFitAreNamed) {
  EXPECT_PRED2(contains, refusal({kSecond, kFirst}, {0, 1}), "chip1.bmodel: no net block_0");
  EXPECT_PRED2(contains, refusal({kFirst}, {0}), "chip0.bmodel: no net lm_head");
  EXPECT_PRED2(contains, refusal({kFirst, kOneChip}, {0, 1}),
               "demo_f16.bmodel: net embedding is not known");
}

TEST_F(ChipsTest, ChipsAboveTheLimitAreRefused) {
  EXPECT_EQ(library_->chip_count(), 1);
  EXPECT_PRED2(contains,
               error_of<std::invalid_argument>([&] { open({kFirst, kSecond}, {0, 8}, 1); }),
               "chip 8 does not exist");
}

TEST_F(ChipsTest, AMissingFileOnTheSecondChipIsNamed) {
  EXPECT_PRED2(contains, refusal({kFirst, "nowhere.bmodel"}, {0, 1}), "nowhere.bmodel");
}

}  // namespace
}  // namespace tpuserve::engine
