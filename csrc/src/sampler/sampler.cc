#include "tpuserve/sampler/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "candidates.h"
#include "scan.h"
#include "softmax.h"
#include "tpuserve/errors.h"
#include "tpuserve/sampler/philox.h"

namespace tpuserve::sampler {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void require_token(const char* what, std::int32_t token, int vocab_size) {
  if (token >= 0 && token < vocab_size) return;
  throw std::invalid_argument(std::string(what) + " token " + std::to_string(token) +
                              ": expected 0 to " + std::to_string(vocab_size - 1));
}

bool has_finite(const float* row, std::size_t count) { return std::isfinite(highest(row, count)); }

// What is added to eight logits by eight bits: 0, or -inf where the bit is not set. Bits of a mixed
// word have no pattern that a branch could predict, and eight additions are one or two
// instructions.
constexpr std::size_t kByteBits = 8;
using ByteMask = std::array<float, kByteBits>;

std::array<ByteMask, 256> byte_masks() {
  std::array<ByteMask, 256> masks{};
  for (std::size_t byte = 0; byte < masks.size(); ++byte) {
    for (std::size_t bit = 0; bit < kByteBits; ++bit) {
      masks[byte][bit] = (byte >> bit & 1U) != 0 ? 0.0F : -kInfinity;
    }
  }
  return masks;
}

// Many words of a grammar's mask are all zeros or all ones.
void apply_mask(const std::uint32_t* words, float* logits, std::size_t count) {
  constexpr std::size_t kBits = 32;
  static const std::array<ByteMask, 256> masks = byte_masks();
  for (std::size_t begin = 0; begin < count; begin += kBits) {
    const std::uint32_t word = words[begin / kBits];
    if (word == ~std::uint32_t{0}) continue;
    const std::size_t length = std::min(kBits, count - begin);
    float* block = logits + begin;
    if (word == 0) {
      std::fill(block, block + length, -kInfinity);
      continue;
    }
    for (std::size_t first = 0; first < length; first += kByteBits) {
      const ByteMask& mask = masks[word >> first & 0xffU];
      const std::size_t bits = std::min(kByteBits, length - first);
      for (std::size_t bit = 0; bit < bits; ++bit) block[first + bit] += mask[bit];
    }
  }
}

// The token at `share` of the row's probability, counted in the order of ids.
std::int32_t draw_unfiltered(const float* row, std::size_t count, float top, double temperature,
                             double share) {
  const Weights weights(row, count, top, scale_of(temperature));
  return static_cast<std::int32_t>(weights.index_at(share * weights.sum()));
}

// The same among candidates, which are in the order of ids.
std::int32_t draw_candidate(const std::vector<Candidate>& candidates, double temperature,
                            double share) {
  std::vector<float> logits;
  logits.reserve(candidates.size());
  for (const Candidate& candidate : candidates) logits.push_back(candidate.logit);
  const float top = highest(logits.data(), logits.size());
  const auto drawn = draw_unfiltered(logits.data(), logits.size(), top, temperature, share);
  return candidates[static_cast<std::size_t>(drawn)].token;
}

void report_logprobs(const float* row, std::size_t count, float top, int best, Sampled& sampled) {
  const double log_sum = std::log(Weights(row, count, top, 1.0F).sum());
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit - top) - log_sum);
  };
  sampled.logprob = logprob(row[sampled.token]);
  if (best == 0) return;
  for (const Candidate& candidate :
       best_of(row, count, std::min(count, static_cast<std::size_t>(best)))) {
    sampled.top.emplace_back(candidate.token, logprob(candidate.logit));
  }
}

}  // namespace

void check_row(const float* row, std::size_t count) {
  const Extent extent = extent_of(row, count);
  if (extent.has_nan) {
    const auto nans = std::count_if(row, row + count, [](float value) { return value != value; });
    throw LaunchError("logits hold " + std::to_string(nans) + " NaN of " + std::to_string(count) +
                      ": the chip produced garbage");
  }
  if (!std::isfinite(extent.highest)) {
    throw LaunchError("the highest logit is " + std::to_string(extent.highest) +
                      ": the chip produced garbage");
  }
}

Sampler::Sampler(SamplingParams params, int vocab_size, const std::int32_t* prompt,
                 std::size_t count)
    : params_(std::move(params)),
      vocab_size_(vocab_size),
      window_(static_cast<std::size_t>(std::max(params_.penalty_window, 0))) {
  params_.validate();
  if (vocab_size < 1) {
    throw std::invalid_argument("vocab_size = " + std::to_string(vocab_size) +
                                ": expected at least 1");
  }
  for (const auto& [token, bias] : params_.logit_bias) {
    require_token("logit_bias", token, vocab_size);
  }
  for (const std::int32_t token : params_.banned_until_min_tokens) {
    require_token("banned_until_min_tokens", token, vocab_size);
  }
  for (std::size_t i = 0; i < count; ++i) {
    require_token("prompt", prompt[i], vocab_size);
    if (params_.has_penalties()) window_.push(prompt[i], /*completion=*/false);
  }
}

void Sampler::accept(std::int32_t token) {
  require_token("completion", token, vocab_size_);
  if (params_.has_penalties()) window_.push(token, /*completion=*/true);
  ++generated_;
}

bool Sampler::bans() const {
  return generated_ < static_cast<std::uint64_t>(params_.min_tokens) &&
         !params_.banned_until_min_tokens.empty();
}

void Sampler::apply_penalties(float* logits) const {
  const auto repetition = static_cast<float>(params_.repetition_penalty);
  for (const auto& [token, counts] : window_.counts()) {
    float& logit = logits[token];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (counts.completion > 0) {
      logit -= static_cast<float>(params_.frequency_penalty * counts.completion +
                                  params_.presence_penalty);
    }
  }
}

const float* Sampler::change(const float* row, TokenMask mask) {
  const bool masked = mask.words != nullptr;
  if (!params_.has_penalties() && params_.logit_bias.empty() && !bans() && !masked) return row;
  const auto count = static_cast<std::size_t>(vocab_size_);
  changed_.assign(row, row + count);
  if (params_.has_penalties()) apply_penalties(changed_.data());
  for (const auto& [token, bias] : params_.logit_bias) {
    changed_[static_cast<std::size_t>(token)] += static_cast<float>(bias);
  }
  if (masked) apply_mask(mask.words, changed_.data(), count);
  if (!bans()) return !masked || has_finite(changed_.data(), count) ? changed_.data() : nullptr;

  std::vector<float> before;
  for (const std::int32_t token : params_.banned_until_min_tokens) {
    before.push_back(std::exchange(changed_[static_cast<std::size_t>(token)], -kInfinity));
  }
  if (has_finite(changed_.data(), count)) return changed_.data();
  if (!masked) throw LaunchError("bans leave no token to draw");
  // Undone from the back: an id may be listed twice.
  for (std::size_t i = before.size(); i-- > 0;) {
    changed_[static_cast<std::size_t>(params_.banned_until_min_tokens[i])] = before[i];
  }
  return has_finite(changed_.data(), count) ? changed_.data() : nullptr;
}

Sampled Sampler::draw(const float* row, TokenMask mask) {
  const auto count = static_cast<std::size_t>(vocab_size_);
  const float* logits = change(row, mask);
  if (logits == nullptr) {
    Sampled none;
    none.token = kNoToken;
    return none;
  }

  const float top = highest(logits, count);
  Sampled sampled;
  if (params_.temperature == 0) {
    sampled.token = static_cast<std::int32_t>(index_of(logits, count, top));
  } else {
    const double share = uniform(params_.seed, generated_);
    const bool filtered = params_.top_k > 0 || params_.top_p < 1 || params_.min_p > 0;
    sampled.token =
        filtered ? draw_candidate(filter(logits, count, top, params_), params_.temperature, share)
                 : draw_unfiltered(logits, count, top, params_.temperature, share);
  }
  if (params_.logprobs >= 0) {
    const float row_top = logits == row ? top : highest(row, count);
    report_logprobs(row, count, row_top, params_.logprobs, sampled);
  }
  accept(sampled.token);
  return sampled;
}

}  // namespace tpuserve::sampler
