#pragma once

#include <cstdint>
#include <vector>

#include "tpuserve/engine/discovery.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// The KV memory of one slot: per layer, `capacity` rows of k and of v, one row per token. `slot`
// counts within the decode nets: their n-th pair of history inputs.
// It *is* the memory of the decode nets' history inputs: nets compiled io_alone read their own
// memory in place, while any other address is first copied there as a whole, in every launch.
class KvRows {
 public:
  KvRows(const ModelNets& nets, runtime::Chip& chip, std::size_t slot);

  int capacity() const { return capacity_; }
  // On each chip: where several share a layer, each has some of the heads.
  std::size_t row_bytes() const { return row_bytes_; }
  std::size_t layers() const { return k_.size(); }

  runtime::MemoryRef k(std::size_t layer, int row, int rows) const {
    return slice(k_[layer], row, rows);
  }
  runtime::MemoryRef v(std::size_t layer, int row, int rows) const {
    return slice(v_[layer], row, rows);
  }

  // All rows become zeros.
  void zero(runtime::Chip& chip);
  // Copies rows [0, rows) of another slot on the same chip.
  void copy_prefix(runtime::Chip& chip, const KvRows& source, int rows);

  // Rows [0, rows) to and from host memory, where each layer has its k and then its v, and these
  // for each chip `stride` rows. Saving waits for the launches before it.
  void save(runtime::Chip& chip, std::uint8_t* target, int rows) const;
  void restore(runtime::Chip& chip, const std::uint8_t* source, int rows, std::size_t stride);

 private:
  runtime::MemoryRef slice(runtime::MemoryRef memory, int row, int rows) const;

  int capacity_;
  std::size_t row_bytes_;
  std::vector<runtime::MemoryRef> k_;
  std::vector<runtime::MemoryRef> v_;
};

}  // namespace tpuserve::engine
