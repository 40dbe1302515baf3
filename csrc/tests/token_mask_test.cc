#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "tpuserve/errors.h"
#include "tpuserve/sampler/sampler.h"

namespace tpuserve::sampler {
namespace {

using Row = std::vector<float>;
using Words = std::vector<std::uint32_t>;

constexpr int kVocab = 70;  // two whole words and six bits

Row random_row(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  Row row(kVocab);
  for (float& logit : row) logit = normal(random);
  return row;
}

// Bits behind the vocabulary are set: they stand for nothing.
Words words_of(const std::set<std::int32_t>& tokens) {
  Words words(3, 0);
  for (const std::int32_t token : tokens) {
    words[static_cast<std::size_t>(token) / 32] |= std::uint32_t{1} << (token % 32);
  }
  words[2] |= ~std::uint32_t{0} << 6;
  return words;
}

Sampler make(const SamplingParams& params) { return Sampler(params, kVocab, nullptr, 0); }

std::vector<SamplingParams> many_params() {
  std::vector<SamplingParams> result(7);
  result[0].temperature = 0;
  result[1].temperature = 3;
  result[2].top_k = 40;
  result[3].top_p = 0.9;
  result[4].min_p = 0.5;
  result[5].top_k = 50;
  result[5].top_p = 0.99;
  result[6].repetition_penalty = 1.3;
  result[6].presence_penalty = 1;
  result[6].logit_bias = {{3, 100}, {40, -100}};
  return result;
}

TEST(TokenMaskTest, OnlyTokensOfTheMaskAreDrawn) {
  const std::set<std::int32_t> allowed = {0, 5, 31, 32, 40, 69};
  const Words words = words_of(allowed);
  for (SamplingParams params : many_params()) {
    params.seed = 7;
    Sampler sampler = make(params);
    for (unsigned i = 0; i < 300; ++i) {
      const Row row = random_row(i);
      EXPECT_EQ(allowed.count(sampler.draw(row.data(), {words.data()}).token), 1U);
    }
  }
}

TEST(TokenMaskTest, ASingleTokenIsCertainAndAFullMaskChangesNothing) {
  const Words one = words_of({33});
  const Words all(3, ~std::uint32_t{0});
  for (const SamplingParams& params : many_params()) {
    const Row row = random_row(1);
    EXPECT_EQ(make(params).draw(row.data(), {one.data()}).token, 33);
    EXPECT_EQ(make(params).draw(row.data(), {all.data()}).token,
              make(params).draw(row.data()).token);
  }
}

TEST(TokenMaskTest, LogprobsStayThoseOfTheModel) {
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = 3;
  const Row row = random_row(2);
  const Sampled free = make(params).draw(row.data());
  const Words words = words_of({free.top[1].first});
  const Sampled masked = make(params).draw(row.data(), {words.data()});
  EXPECT_EQ(masked.token, free.top[1].first);
  EXPECT_EQ(*masked.logprob, free.top[1].second);
  EXPECT_EQ(masked.top, free.top);
}

TEST(TokenMaskTest, AnEmptyMaskYieldsNoTokenAndLeavesTheSamplerAsItWas) {
  const Words none = words_of({});
  for (const SamplingParams& params : many_params()) {
    const Row row = random_row(3);
    Sampler sampler = make(params);
    EXPECT_EQ(sampler.draw(row.data(), {none.data()}).token, kNoToken);
    EXPECT_EQ(sampler.generated(), 0U);
    EXPECT_EQ(sampler.draw(row.data()).token, make(params).draw(row.data()).token);
  }
}

TEST(TokenMaskTest, AMaskWithoutAFiniteLogitYieldsNoToken) {
  Row row(kVocab, 0);
  row[9] = -std::numeric_limits<float>::infinity();
  const Words words = words_of({9});
  EXPECT_EQ(make(SamplingParams{}).draw(row.data(), {words.data()}).token, kNoToken);
}

TEST(TokenMaskTest, TheMaskGoesBeforeMinTokens) {
  const Row row = random_row(4);
  SamplingParams params;
  params.temperature = 0;
  params.min_tokens = 5;
  params.banned_until_min_tokens = {8, 8, 9};
  const Words open = words_of({8, 9, 10});
  EXPECT_EQ(make(params).draw(row.data(), {open.data()}).token, 10);
  const Words closed = words_of({8, 9});
  EXPECT_EQ(make(params).draw(row.data(), {closed.data()}).token, row[8] > row[9] ? 8 : 9);
  const Words none = words_of({});
  EXPECT_EQ(make(params).draw(row.data(), {none.data()}).token, kNoToken);
}

TEST(TokenMaskTest, BansOfAllTokensWithoutAMaskAreAnError) {
  SamplingParams params;
  params.min_tokens = 1;
  for (std::int32_t token = 0; token < kVocab; ++token) {
    params.banned_until_min_tokens.push_back(token);
  }
  const Row row = random_row(5);
  Sampler sampler = make(params);
  EXPECT_THROW(sampler.draw(row.data()), LaunchError);
}

}  // namespace
}  // namespace tpuserve::sampler
