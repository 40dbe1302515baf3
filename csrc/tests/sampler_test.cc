#include "tpuserve/sampler/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "tpuserve/errors.h"
#include "tpuserve/sampler/philox.h"

namespace tpuserve::sampler {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using Row = std::vector<float>;

Sampler make(const SamplingParams& params, const Row& row, std::vector<std::int32_t> prompt = {}) {
  return Sampler(params, static_cast<int>(row.size()), prompt.data(), prompt.size());
}

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

// What a refusal says; empty when nothing was refused.
std::string refusal(const SamplingParams& params) {
  try {
    params.validate();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(SamplerTest, GreedyTakesTheHighestAndTheLowestIdAmongEquals) {
  const Row row = {0, 2, 1, 2};
  EXPECT_EQ(make(greedy(), row).draw(row.data()).token, 1);
}

TEST(SamplerTest, DrawsByProbability) {
  const Row row = {std::log(0.1F), std::log(0.6F), std::log(0.3F), -kInfinity};
  SamplingParams params;
  params.seed = 11;
  Sampler sampler = make(params, row);
  std::vector<int> counts(row.size());
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i)
    ++counts[static_cast<std::size_t>(sampler.draw(row.data()).token)];
  EXPECT_NEAR(counts[0] / double{kDraws}, 0.1, 0.01);
  EXPECT_NEAR(counts[1] / double{kDraws}, 0.6, 0.01);
  EXPECT_NEAR(counts[2] / double{kDraws}, 0.3, 0.01);
  EXPECT_EQ(counts[3], 0);
}

TEST(SamplerTest, TemperatureSharpensAndFlattens) {
  const Row row = {0, 1};
  for (const double temperature : {0.5, 1.0, 4.0}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 5;
    Sampler sampler = make(params, row);
    int ones = 0;
    constexpr int kDraws = 10000;
    for (int i = 0; i < kDraws; ++i) ones += sampler.draw(row.data()).token;
    EXPECT_NEAR(ones / double{kDraws}, 1 / (1 + std::exp(-1 / temperature)), 0.015);
  }
}

TEST(SamplerTest, TheColdestTemperatureIsGreedy) {
  const Row row = {0.5F, 0.75F, 0.25F};
  for (const double top_p : {1.0, 0.9}) {
    SamplingParams params;
    params.temperature = std::numeric_limits<double>::min();
    params.top_p = top_p;
    Sampler sampler = make(params, row);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(sampler.draw(row.data()).token, 1);
  }
}

TEST(SamplerTest, TheDrawDependsOnSeedAndCountAlone) {
  Row row(100);
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = std::sin(static_cast<float>(i));
  SamplingParams params;
  params.seed = 77;
  Sampler first = make(params, row);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(first.draw(row.data()).token);
  // A resumed request accepts what was delivered and goes on with the same tokens.
  Sampler resumed = make(params, row);
  for (int i = 0; i < 10; ++i) resumed.accept(tokens[static_cast<std::size_t>(i)]);
  for (std::size_t i = 10; i < 20; ++i) EXPECT_EQ(resumed.draw(row.data()).token, tokens[i]);
  params.seed = 78;
  Sampler other = make(params, row);
  std::vector<std::int32_t> others;
  for (int i = 0; i < 20; ++i) others.push_back(other.draw(row.data()).token);
  EXPECT_NE(others, tokens);
}

TEST(SamplerTest, AnInactiveFilterDoesNotReachTheDraw) {
  Row row(64);
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(i % 7);
  SamplingParams one;
  one.top_k = 1;
  Sampler sampler = make(one, row);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sampler.draw(row.data()).token, 6);
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const Row row = {3.0F, 2.0F, -1.0F, -1.5F};
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  EXPECT_EQ(make(params, row, {0}).draw(row.data()).token, 1);  // 3 / 2 < 2
  const Row negative = {-1.0F, -1.5F};
  EXPECT_EQ(make(params, negative, {0}).draw(negative.data()).token, 1);  // -2 < -1.5
}

TEST(SamplerTest, PresenceAndFrequencyCountTheCompletionOnly) {
  const Row row = {1.0F, 0.9F, 0.0F};
  SamplingParams params = greedy();
  params.frequency_penalty = 0.3;
  Sampler sampler = make(params, row, {0, 0, 0, 0});
  EXPECT_EQ(sampler.draw(row.data()).token, 0);  // the prompt does not count
  EXPECT_EQ(sampler.draw(row.data()).token, 1);  // 1 - 0.3 < 0.9
  EXPECT_EQ(sampler.draw(row.data()).token, 0);  // 0.7 > 0.6
  EXPECT_EQ(sampler.draw(row.data()).token, 1);  // 0.4 < 0.6
  params.frequency_penalty = 0;
  params.presence_penalty = 0.3;
  Sampler present = make(params, row);
  for (const int token : {0, 1, 0, 0}) EXPECT_EQ(present.draw(row.data()).token, token);
}

TEST(SamplerTest, ThePenaltyWindowForgets) {
  const Row row = {1.0F, 0.9F};
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  params.penalty_window = 1;
  Sampler sampler = make(params, row);
  for (const int token : {0, 1, 0, 1}) EXPECT_EQ(sampler.draw(row.data()).token, token);
}

TEST(SamplerTest, BiasIsAddedAfterPenalties) {
  const Row row = {4.0F, 1.0F};
  SamplingParams params = greedy();
  params.repetition_penalty = 4;  // 4 becomes 1
  params.logit_bias = {{1, 0.5}};
  EXPECT_EQ(make(params, row, {0}).draw(row.data()).token, 1);
  params.logit_bias = {{1, -0.5}};
  EXPECT_EQ(make(params, row, {0}).draw(row.data()).token, 0);
}

TEST(SamplerTest, StopTokensAreBannedUntilMinTokens) {
  const Row row = {5.0F, 1.0F, 0.0F};
  SamplingParams params = greedy();
  params.min_tokens = 2;
  params.banned_until_min_tokens = {0};
  Sampler sampler = make(params, row);
  for (const int token : {1, 1, 0}) EXPECT_EQ(sampler.draw(row.data()).token, token);
}

TEST(SamplerTest, ABanOfEverythingIsAnError) {
  const Row row = {5.0F, 1.0F};
  SamplingParams params;
  params.min_tokens = 1;
  params.banned_until_min_tokens = {0, 1};
  EXPECT_THROW(make(params, row).draw(row.data()), LaunchError);
}

TEST(SamplerTest, LogprobsAreOfTheModelNotOfThePenalties) {
  const Row row = {std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  SamplingParams params = greedy();
  params.logit_bias = {{2, 50}};
  params.logprobs = 2;
  const Sampled sampled = make(params, row).draw(row.data());
  EXPECT_EQ(sampled.token, 2);
  EXPECT_NEAR(*sampled.logprob, std::log(0.2F), 1e-6);
  ASSERT_EQ(sampled.top.size(), 2U);
  EXPECT_EQ(sampled.top[0].first, 0);
  EXPECT_NEAR(sampled.top[0].second, std::log(0.5F), 1e-6);
  EXPECT_EQ(sampled.top[1].first, 1);
}

TEST(SamplerTest, LogprobsComeAsAskedFor) {
  const Row row = {1, 2, 3};
  SamplingParams params = greedy();
  EXPECT_FALSE(make(params, row).draw(row.data()).logprob.has_value());
  params.logprobs = 0;
  EXPECT_TRUE(make(params, row).draw(row.data()).logprob.has_value());
  EXPECT_TRUE(make(params, row).draw(row.data()).top.empty());
  params.logprobs = 20;
  EXPECT_EQ(make(params, row).draw(row.data()).top.size(), 3U);
}

TEST(SamplerTest, RowsAreNotChanged) {
  const Row row = {1, 2, 3};
  const Row before = row;
  SamplingParams params;
  params.repetition_penalty = 2;
  params.logit_bias = {{0, 3}};
  make(params, row, {1, 2}).draw(row.data());
  EXPECT_EQ(row, before);
}

TEST(SamplerTest, GarbageFromTheChipIsNoticed) {
  for (const float bad : {kNan, kInfinity}) {
    const Row row = {0, bad, 1};
    EXPECT_THROW(check_row(row.data(), row.size()), LaunchError);
  }
  const Row nothing = {-kInfinity, -kInfinity};
  EXPECT_THROW(check_row(nothing.data(), nothing.size()), LaunchError);
  const Row fine = {-kInfinity, 1};
  check_row(fine.data(), fine.size());
}

TEST(SamplerTest, ParametersOutOfRangeNameValueAndLimit) {
  const auto with = [](auto change) {
    SamplingParams params;
    change(params);
    return refusal(params);
  };
  const double nan = std::nan("");
  EXPECT_EQ(refusal(SamplingParams{}), "");
  EXPECT_EQ(with([](auto& p) { p.temperature = -1; }),
            "temperature = -1: expected a finite number >= 0");
  EXPECT_NE(with([nan](auto& p) { p.temperature = nan; }), "");
  EXPECT_NE(with([](auto& p) { p.temperature = HUGE_VAL; }), "");
  EXPECT_EQ(with([](auto& p) { p.top_k = -1; }), "top_k = -1: expected 0 (off) or more");
  EXPECT_EQ(with([](auto& p) { p.top_p = 0; }), "top_p = 0: expected more than 0 and at most 1");
  EXPECT_NE(with([](auto& p) { p.top_p = 1.01; }), "");
  EXPECT_NE(with([nan](auto& p) { p.top_p = nan; }), "");
  EXPECT_NE(with([](auto& p) { p.min_p = -0.1; }), "");
  EXPECT_NE(with([](auto& p) { p.repetition_penalty = 0; }), "");
  EXPECT_NE(with([](auto& p) { p.presence_penalty = 2.1; }), "");
  EXPECT_NE(with([](auto& p) { p.frequency_penalty = -2.1; }), "");
  EXPECT_NE(with([](auto& p) { p.penalty_window = -1; }), "");
  EXPECT_NE(with([](auto& p) { p.logit_bias = {{-1, 0}}; }), "");
  EXPECT_NE(with([](auto& p) { p.logit_bias = {{1, 100.5}}; }), "");
  EXPECT_EQ(with([](auto& p) { p.logprobs = 21; }), "logprobs = 21: expected -1 (none) to 20");
  EXPECT_NE(with([](auto& p) { p.min_tokens = -1; }), "");
  EXPECT_NE(with([](auto& p) { p.banned_until_min_tokens = {-1}; }), "");
}

TEST(SamplerTest, IdsOutsideOfTheVocabularyAreRefused) {
  const Row row(10);
  SamplingParams params;
  EXPECT_THROW(make(params, row, {10}), std::invalid_argument);
  EXPECT_THROW(make(params, row, {-1}), std::invalid_argument);
  params.logit_bias = {{10, 1.0}};
  EXPECT_THROW(make(params, row), std::invalid_argument);
  params.logit_bias.clear();
  params.banned_until_min_tokens = {10};
  EXPECT_THROW(make(params, row), std::invalid_argument);
  Sampler sampler = make(SamplingParams{}, row);
  EXPECT_THROW(sampler.accept(10), std::invalid_argument);
  EXPECT_EQ(sampler.generated(), 0U);
  EXPECT_THROW(Sampler(SamplingParams{}, 0, nullptr, 0), std::invalid_argument);
}

}  // namespace
}  // namespace tpuserve::sampler
