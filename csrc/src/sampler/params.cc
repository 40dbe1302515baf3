#include "tpuserve/sampler/params.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace tpuserve::sampler {

namespace {

constexpr double kUnlimited = std::numeric_limits<double>::max();

template <typename Value>
[[noreturn]] void refuse(const char* name, Value value, const char* expected) {
  std::ostringstream text;
  text << name << " = " << value << ": expected " << expected;
  throw std::invalid_argument(text.str());
}

// Written so that NaN fails.
void require_between(const char* name, double value, double low, double high,
                     const char* expected) {
  if (!(value >= low && value <= high)) refuse(name, value, expected);
}

}  // namespace

void SamplingParams::validate() const {
  require_between("temperature", temperature, 0, kUnlimited, "a finite number >= 0");
  if (top_k < 0) refuse("top_k", top_k, "0 (off) or more");
  if (!(top_p > 0)) refuse("top_p", top_p, "more than 0 and at most 1");
  require_between("top_p", top_p, 0, 1, "more than 0 and at most 1");
  require_between("min_p", min_p, 0, 1, "0 to 1");
  require_between("repetition_penalty", repetition_penalty, 0.01, 100, "0.01 to 100");
  require_between("presence_penalty", presence_penalty, -2, 2, "-2 to 2");
  require_between("frequency_penalty", frequency_penalty, -2, 2, "-2 to 2");
  if (penalty_window < 0) refuse("penalty_window", penalty_window, "0 (whole context) or more");
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0) refuse("logit_bias token", token, "0 or more");
    require_between("logit_bias", bias, -100, 100, "-100 to 100");
  }
  if (logprobs < -1 || logprobs > 20) refuse("logprobs", logprobs, "-1 (none) to 20");
  for (const std::int32_t token : banned_until_min_tokens) {
    if (token < 0) refuse("banned_until_min_tokens token", token, "0 or more");
  }
  if (min_tokens < 0) refuse("min_tokens", min_tokens, "0 or more");
}

}  // namespace tpuserve::sampler
