#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace tpuserve::sampler {

// How tokens of one request are drawn; defaults draw from the model's own distribution.
struct SamplingParams {
  double temperature = 1.0;  // 0: the best token
  int top_k = 0;             // 0: off
  double top_p = 1.0;        // 1: off
  double min_p = 0.0;        // 0: off
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  int penalty_window = 0;  // last tokens that penalties look at; 0: all
  std::map<std::int32_t, double> logit_bias;
  std::uint64_t seed = 0;
  int logprobs = -1;  // -1: none; 0: the drawn token's; n: of the n best too
  std::vector<std::int32_t> banned_until_min_tokens;
  int min_tokens = 0;

  bool has_penalties() const {
    return repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0;
  }
  // Throws std::invalid_argument that names the first value out of range, and its limit.
  void validate() const;
};

}  // namespace tpuserve::sampler
