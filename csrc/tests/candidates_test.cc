#include "sampler/candidates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace tpuserve::sampler {
namespace {

using Row = std::vector<float>;

std::vector<std::int32_t> tokens(const std::vector<Candidate>& candidates) {
  std::vector<std::int32_t> result;
  for (const Candidate& candidate : candidates) result.push_back(candidate.token);
  return result;
}

std::vector<Candidate> fully_sorted(const Row& row) {
  std::vector<Candidate> all;
  for (std::size_t i = 0; i < row.size(); ++i)
    all.push_back({row[i], static_cast<std::int32_t>(i)});
  std::sort(all.begin(), all.end(), better);
  return all;
}

// The definition of the filters, on a full sort and in double precision; best first.
std::vector<std::int32_t> reference(const Row& row, const SamplingParams& params) {
  std::vector<Candidate> sorted = fully_sorted(row);
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < sorted.size()) {
    sorted.resize(static_cast<std::size_t>(params.top_k));
  }
  const auto weight = [&](const Candidate& c) {
    return std::exp(static_cast<double>(c.logit - sorted.front().logit) / params.temperature);
  };
  if (params.top_p < 1) {
    double total = 0;
    for (const Candidate& c : sorted) total += weight(c);
    double sum = 0;
    std::size_t kept = 0;
    while (kept < sorted.size() && sum < params.top_p * total) sum += weight(sorted[kept++]);
    sorted.resize(kept);
  }
  while (sorted.size() > 1 && weight(sorted.back()) < params.min_p) sorted.pop_back();
  return tokens(sorted);
}

std::vector<Candidate> filtered(const Row& row, const SamplingParams& params) {
  return filter(row.data(), row.size(), *std::max_element(row.begin(), row.end()), params);
}

Row random_row(std::size_t count, unsigned seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  Row row(count);
  for (float& value : row) value = normal(random);
  return row;
}

TEST(CandidatesTest, BestOfIsThePrefixOfAFullSort) {
  const Row row = random_row(5000, 1, 3);
  const std::vector<std::int32_t> all = tokens(fully_sorted(row));
  for (const std::size_t k : {1U, 2U, 50U, 4999U, 5000U}) {
    EXPECT_EQ(tokens(best_of(row.data(), row.size(), k)),
              std::vector<std::int32_t>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k)));
  }
}

TEST(CandidatesTest, EqualLogitsGoByTokenId) {
  const Row row = {1, 3, 3, 2, 3, 2};
  EXPECT_EQ(tokens(best_of(row.data(), row.size(), 4)), (std::vector<std::int32_t>{1, 2, 4, 3}));
}

TEST(CandidatesTest, FiltersFollowTheirDefinition) {
  struct Case {
    int top_k;
    double top_p;
    double min_p;
    double temperature;
  };
  const Case cases[] = {{5, 1, 0, 1},      {0, 0.9, 0, 1},   {0, 0.999, 0, 1},  {0, 1, 0.1, 1},
                        {40, 0.5, 0, 0.7}, {40, 1, 0.2, 2},  {0, 0.8, 0.05, 1}, {0, 0.5, 0, 3},
                        {1, 0.1, 0.9, 1},  {9999, 0.7, 0, 1}};
  for (const float spread : {0.01F, 1.0F, 8.0F}) {
    for (unsigned seed = 0; seed < 5; ++seed) {
      const Row row = random_row(4096, seed, spread);
      for (const Case& c : cases) {
        SamplingParams params;
        params.top_k = c.top_k;
        params.top_p = c.top_p;
        params.min_p = c.min_p;
        params.temperature = c.temperature;
        std::vector<Candidate> kept = filtered(row, params);
        EXPECT_TRUE(std::is_sorted(
            kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; }));
        std::sort(kept.begin(), kept.end(), better);
        const auto got = tokens(kept);
        const auto wanted = reference(row, params);
        // Sums in float and in double may differ by one token at the cut.
        EXPECT_NEAR(static_cast<double>(got.size()), static_cast<double>(wanted.size()), 1)
            << "top_k " << c.top_k << " top_p " << c.top_p << " min_p " << c.min_p;
        const auto common = static_cast<std::ptrdiff_t>(std::min(got.size(), wanted.size()));
        EXPECT_TRUE(std::equal(got.begin(), got.begin() + common, wanted.begin()));
      }
    }
  }
}

TEST(CandidatesTest, TopPKeepsTheFewestThatReachTheShare) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const Row row = {std::log(0.125F), std::log(0.5F), std::log(0.125F), std::log(0.25F)};
  SamplingParams params;
  for (const auto& [share, kept] :
       {std::pair{0.49, 1}, {0.51, 2}, {0.74, 2}, {0.76, 3}, {0.99, 4}}) {
    params.top_p = share;
    EXPECT_EQ(filtered(row, params).size(), static_cast<std::size_t>(kept)) << share;
  }
}

TEST(CandidatesTest, ANucleusOfEqualsTakesTheLowestIds) {
  const Row row(1000, 2.5F);
  SamplingParams params;
  params.top_p = 0.2495;
  const auto kept = tokens(filtered(row, params));
  ASSERT_EQ(kept.size(), 250U);
  EXPECT_EQ(kept.back(), 249);
}

TEST(CandidatesTest, SomethingIsAlwaysLeft) {
  const Row row = {0, 1, -INFINITY};
  SamplingParams params;
  params.top_p = 1e-12;
  params.min_p = 1;
  params.top_k = 1;
  EXPECT_EQ(tokens(filtered(row, params)), (std::vector<std::int32_t>{1}));
}

}  // namespace
}  // namespace tpuserve::sampler
