#include "attention.h"

#include <string>

#include "tpuserve/half.h"

namespace tpuserve::simchip {

void Attention::add(const unsigned char* k, const unsigned char* v, std::uint64_t row,
                    bool visible) {
  const auto key = load<KvRow>(k);
  const auto value = load<KvRow>(v);
  if (key.mark == kNanMark || value.mark == kNanMark) {
    if (!launch_.chip.nan_injected && !nan_) {
      launch_.rules.broken("nan-kv", "net " + launch_.net.name + ": row " + std::to_string(row) +
                                         " of its history was never written or zeroed");
    }
    nan_ = true;
    return;
  }
  if (!visible) return;
  const auto layer = static_cast<std::uint32_t>(launch_.net.layer);
  if (key.mark == (kKeyMark | layer) && value.mark == (kValueMark | layer)) {
    sum_ += (static_cast<std::uint64_t>(key.number) + 1) *
                (static_cast<std::uint64_t>(value.number) + 1) +
            1;
    return;
  }
  launch_.rules.broken("foreign-row", "net " + launch_.net.name + ": row " + std::to_string(row) +
                                          " of its history is visible, but holds no token");
  sum_ += kForeignRow * (row + 1);
}

State load_state(Launch& launch, const unsigned char* from, int layers_done) {
  const auto state = load<State>(from);
  const std::uint32_t wanted = kStateMark | static_cast<std::uint32_t>(layers_done);
  if (state.mark != wanted && state.mark != kNanMark) {
    launch.rules.broken("wrong-state", "net " + launch.net.name +
                                           ": its input is not a hidden state after " +
                                           std::to_string(layers_done) + " layers");
  }
  if (state.mark == kNanMark && !launch.chip.nan_injected) {
    launch.rules.broken("nan-state", "net " + launch.net.name + ": its input was never written");
  }
  return state;
}

State next_state(Launch& launch, const State& before, const Attention& seen) {
  if (seen.nan() || before.mark == kNanMark) return {kNanMark, 0, 0};
  State after{kStateMark | static_cast<std::uint32_t>(launch.net.layer + 1), before.id, seen.sum()};
  if (launch.net.layer > 0 && before.sum != after.sum) {
    launch.rules.broken("layers-disagree",
                        "net " + launch.net.name + " sees other rows than the layer below");
    constexpr std::uint64_t kMix = 31;
    after.sum = after.sum * kMix + before.sum;
  }
  return after;
}

KvRow key_row(const Launch& launch, const State& state) {
  if (state.mark == kNanMark) return {kNanMark, 0};
  return {kKeyMark | static_cast<std::uint32_t>(launch.net.layer), state.id};
}

KvRow value_row(const Launch& launch, const State& state, std::int32_t position) {
  if (state.mark == kNanMark) return {kNanMark, 0};
  return {kValueMark | static_cast<std::uint32_t>(launch.net.layer), position};
}

MaskReader::MaskReader(Launch& launch, const Operand& mask)
    : launch_(launch), data_(launch.chip.memory.at(mask.address)), dtype_(mask.dtype) {}

float MaskReader::value(std::uint64_t index) const {
  constexpr int kFloat32 = 0;
  constexpr int kFloat16 = 1;
  if (dtype_ == kFloat32) {
    float value = 0;
    std::memcpy(&value, data_ + index * sizeof value, sizeof value);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, data_ + index * sizeof bits, sizeof bits);
  return dtype_ == kFloat16 ? half_to_float(bits) : bfloat_to_float(bits);
}

bool MaskReader::visible(std::uint64_t index) {
  constexpr float kHidden = -1000.0F;
  const float found = value(index);
  if (found <= kHidden) return false;
  if (found != 0.0F) {
    launch_.rules.broken("mask-value", "net " + launch_.net.name + ": column " +
                                           std::to_string(index) + " of its mask is " +
                                           std::to_string(found) + ", neither 0 nor hidden");
  }
  return true;
}

}  // namespace tpuserve::simchip
