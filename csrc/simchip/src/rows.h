// What the simulated nets write instead of numbers, so that tokens can be computed by a person.
//
// A hidden state is {mark, id, sum}; a row of K holds the token's id, a row of V its position. Each
// begins with a mark that tells what it is and of which layer. A block adds up
// (id + 1) × (position + 1) + 1 over the rows that a token may see, itself included; the token that
// follows is this sum modulo the vocabulary. (Without the + 1 a token of vocabulary - 1 would
// change nothing and follow itself for ever.)
#pragma once

#include <cstdint>
#include <cstring>

namespace tpuserve::simchip {

constexpr std::uint32_t kStateMark = 0x5300'0000;  // plus the layers that are done
constexpr std::uint32_t kKeyMark = 0x4b00'0000;    // plus the layer
constexpr std::uint32_t kValueMark = 0x5600'0000;
constexpr std::uint32_t kNanMark = 0xffff'ffff;  // NaN in every float type

struct State {
  std::uint32_t mark;
  std::int32_t id;
  std::uint64_t sum;
};
static_assert(sizeof(State) == 16);

struct KvRow {
  std::uint32_t mark;
  std::int32_t number;
};
static_assert(sizeof(KvRow) == 8);

template <typename Row>
Row load(const unsigned char* from) {
  Row row;
  std::memcpy(&row, from, sizeof row);
  return row;
}

// Fills the rest of the row with zeros, or all of it with NaN if that is what the row is.
template <typename Row>
void store(unsigned char* to, const Row& row, std::uint64_t row_bytes) {
  if (row.mark == kNanMark) {
    std::memset(to, 0xff, row_bytes);
    return;
  }
  std::memcpy(to, &row, sizeof row);
  std::memset(to + sizeof row, 0, row_bytes - sizeof row);
}

// What a row adds that a token sees although no token is there: shows in all tokens that follow.
constexpr std::uint64_t kForeignRow = 1'000'003;

// Logits of the next token, of the two ids after it (modulo the vocabulary), and of all others.
// Exact in float16 and bfloat16.
constexpr float kLogits[] = {4.0F, 3.0F, 2.0F};
constexpr float kOtherLogits = -30.0F;

}  // namespace tpuserve::simchip
