// Nets of 2023, whose KV is a window that moves on: the numbers of today's nets.
#include "engine/older_forms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "emulator_fixture.h"
#include "test_support.h"
#include "tpuserve/engine/engine.h"

namespace tpuserve::engine {
namespace {

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

// Of one checkpoint.
constexpr const char* kWindow = "tests/fixtures/models/window/demo_f16_window.bmodel";
constexpr const char* kToday = "tests/fixtures/models/static/demo_f16_static.bmodel";

class OlderFormsTest : public EmulatorTest {
 protected:
  std::unique_ptr<Engine> open(const char* name, int slots) {
    return std::make_unique<Engine>(library_, std::vector<runtime::BmodelSource>{bmodel(name)},
                                    std::vector<int>{0}, EngineOptions{slots, false, {}});
  }
};

Ids counting(std::size_t count, int first) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = (first + static_cast<int>(i) * 7) % 1000;
  return ids;
}

Logits prefill(Engine& engine, int slot, const Ids& ids) {
  Logits logits(static_cast<std::size_t>(engine.spec().vocab_size));
  const HeadRows row{logits.data(), nullptr};
  engine.prefill(slot, ids.data(), ids.size(), 0, &row);
  return logits;
}

Logits decode(Engine& engine, const std::vector<int>& slots, const Ids& ids) {
  Logits logits(static_cast<std::size_t>(engine.spec().vocab_size) * slots.size());
  engine.decode(slots, ids.data(), {logits.data(), nullptr});
  return logits;
}

double cosine(const Logits& a, const Logits& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

auto best(const Logits& logits, std::size_t row, std::size_t width) {
  const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * width);
  return std::max_element(begin, begin + static_cast<std::ptrdiff_t>(width)) - begin;
}

TEST_F(OlderFormsTest, AWindowGivesTheNumbersOfTodaysNets) {
  const auto older = open(kWindow, 2);
  const auto today = open(kToday, 2);
  const ModelSpec& spec = older->spec();
  EXPECT_EQ(spec.context_length, 64);
  EXPECT_EQ(spec.max_prompt_length, 63);
  EXPECT_EQ(spec.dtype, runtime::DType::kFloat32);
  EXPECT_EQ(spec.embedding_rows, 1024);
  EXPECT_EQ(spec.features, (std::vector<std::string>{"kv-window"}));
  for (int slot = 0; slot < 2; ++slot) {
    const Ids ids = counting(slot == 0 ? 5 : 40, slot);
    EXPECT_GT(cosine(prefill(*older, slot, ids), prefill(*today, slot, ids)), 0.999999);
  }
  const auto width = static_cast<std::size_t>(spec.vocab_size);
  // To the last row of the second slot.
  for (int step = 0; step < 24; ++step) {
    const Ids ids = {17 * step, 900 - step};
    const Logits a = decode(*older, {0, 1}, ids);
    const Logits b = decode(*today, {0, 1}, ids);
    EXPECT_GT(cosine(a, b), 0.999999) << step;
    for (std::size_t row = 0; row < 2; ++row) EXPECT_EQ(best(a, row, width), best(b, row, width));
  }
  EXPECT_EQ(older->length(1), 64);
}

TEST_F(OlderFormsTest, RowsOfAWindowCanBeCopiedAndSaved) {
  const auto engine = open(kWindow, 2);
  prefill(*engine, 0, counting(20, 1));
  prefill(*engine, 1, counting(50, 9));
  decode(*engine, {0}, {30});
  engine->copy_prefix(0, 1, 21);
  std::vector<std::uint8_t> saved(static_cast<std::size_t>(engine->spec().layers) * 2 * 21 *
                                  engine->kv_row_bytes());
  engine->save(0, saved.data());
  const Logits straight = decode(*engine, {0}, {31});
  EXPECT_EQ(decode(*engine, {1}, {31}), straight);
  prefill(*engine, 0, counting(44, 400));
  engine->restore(0, saved.data(), 21, 21);
  EXPECT_EQ(decode(*engine, {0}, {31}), straight);
}

}  // namespace
}  // namespace tpuserve::engine
