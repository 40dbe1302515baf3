// Drawing tokens from logits.
//
// For each row, in this order:
//   1. log-probabilities that are reported: log softmax of the row as the model gave it
//   2. repetition penalty: l > 0 ? l / r : l * r, for tokens of the window, prompt and completion
//   3. frequency and presence penalty: l - f * count - p, for completion tokens of the window
//   4. logit bias: l + b
//   5. tokens banned while fewer than min_tokens are out, and those outside of the row's mask:
//      l = -inf; where the two leave none, the mask alone counts
//   6. temperature 0: the highest, lowest id among equals; else l / temperature
//   7. top-k: the k highest; equals by id, lowest first
//   8. top-p: of these, the fewest highest whose probabilities sum to at least p
//   9. min-p: of these, those with at least min_p times the probability of the best
//  10. one of them by its probability, at uniform(seed, number of completion tokens) of their sum
//  in the
//      order of ids
// The result is a function of row, parameters, tokens so far; nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tpuserve/sampler/params.h"
#include "tpuserve/sampler/token_window.h"

namespace tpuserve::sampler {

// Which tokens a row may yield: bit i % 32 of word i / 32 stands for token i, as many words as the
// vocabulary needs. Without words: all.
struct TokenMask {
  const std::uint32_t* words = nullptr;
};

struct Sampled {
  std::int32_t token = 0;  // kNoToken when the mask leaves none
  std::optional<float> logprob;
  std::vector<std::pair<std::int32_t, float>> top;  // best first
  std::string error;  // why nothing could be drawn; the token is kNoToken then
};

inline constexpr std::int32_t kNoToken = -1;

// Throws LaunchError unless the row has a maximum that is finite, and no NaN.
void check_row(const float* row, std::size_t count);

// The state of one request.
class Sampler {
 public:
  // Throws std::invalid_argument for parameters, prompt or ids out of range.
  Sampler(SamplingParams params, int vocab_size, const std::int32_t* prompt, std::size_t count);

  int vocab_size() const { return vocab_size_; }
  std::uint64_t generated() const { return generated_; }

  // Appends a completion token. Throws std::invalid_argument outside of the vocabulary.
  void accept(std::int32_t token);
  // Draws from a checked row of vocab_size logits and appends the token. Where the mask leaves no
  // token with a finite logit, says so and appends nothing.
  Sampled draw(const float* row, TokenMask mask = {});

 private:
  bool bans() const;
  // The row after steps 2 to 5, or the row itself; nullptr when no token is left.
  const float* change(const float* row, TokenMask mask);
  void apply_penalties(float* logits) const;

  SamplingParams params_;
  int vocab_size_;
  std::uint64_t generated_ = 0;
  TokenWindow window_;
  std::vector<float> changed_;  // the row after steps 2 to 5
};

}  // namespace tpuserve::sampler
