// The sum over the rows of K and V that a token sees.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "rows.h"

namespace tpuserve::simchip {

class Attention {
 public:
  explicit Attention(Launch& launch) : launch_(launch) {}

  // A row that is in the cache. Hidden rows add nothing, but NaN in them spreads all the same.
  void add(const unsigned char* k, const unsigned char* v, std::uint64_t row, bool visible);

  void add_nan() { nan_ = true; }

  std::uint64_t sum() const { return sum_; }
  bool nan() const { return nan_; }

 private:
  Launch& launch_;
  std::uint64_t sum_ = 0;
  bool nan_ = false;
};

// The state before a block, as it should be: after the layers below it.
State load_state(Launch& launch, const unsigned char* from, int layers_done);
// The state after the block. The sums of two layers differ when their KV does.
State next_state(Launch& launch, const State& before, const Attention& seen);

KvRow key_row(const Launch& launch, const State& state);
KvRow value_row(const Launch& launch, const State& state, std::int32_t position);

void run_prefill(Launch& launch);
void run_decode(Launch& launch);

// Which columns of a mask are visible: 0 is, -1000 and less is not.
class MaskReader {
 public:
  MaskReader(Launch& launch, const Operand& mask);
  bool visible(std::uint64_t index);

 private:
  float value(std::uint64_t index) const;

  Launch& launch_;
  const unsigned char* data_;
  int dtype_;
};

}  // namespace tpuserve::simchip
