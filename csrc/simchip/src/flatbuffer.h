// Bounds-checked reading of a FlatBuffer: tables whose fields are found through a vtable of 16-bit
// offsets, strings and vectors behind 32-bit ones. Source: https://flatbuffers.dev/internals/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace tpuserve::simchip {

struct FlatbufferError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Fields by their number in the schema; an absent field is zero or empty. The bytes must outlive
// the table. All throw FlatbufferError when an offset leads out of the bytes.
class FlatTable {
 public:
  static FlatTable root(const std::vector<char>& bytes);

  std::uint32_t u32(int field) const;
  std::uint64_t u64(int field) const;
  std::string blob(int field) const;                     // a string or a vector of bytes
  std::uint64_t struct_u64(int field, int index) const;  // of a struct of 64-bit numbers
  std::vector<std::uint64_t> u64s(int field) const;
  std::vector<FlatTable> tables(int field) const;  // also one table: 0 or 1 elements by `table`
  std::vector<FlatTable> table(int field) const;

 private:
  FlatTable(const std::vector<char>& bytes, std::int64_t position);

  template <typename Number>
  Number at(std::int64_t position) const;
  std::int64_t field(int index) const;   // position, -1 when absent
  std::int64_t target(int index) const;  // where the field's offset leads, -1 when absent
  std::int64_t vector_length(std::int64_t start, std::size_t element_bytes) const;

  const std::vector<char>* bytes_;
  std::int64_t position_;
  std::int64_t vtable_;
};

}  // namespace tpuserve::simchip
