#include "kv_rows.h"

namespace tpuserve::engine {

KvRows::KvRows(const ModelNets& nets, runtime::Chip& chip, std::size_t slot)
    : capacity_(nets.spec.context_length),
      row_bytes_(static_cast<std::size_t>(nets.spec.kv_heads) *
                 static_cast<std::size_t>(nets.spec.head_dim) * size_bytes(nets.spec.dtype)) {
  for (const LayerNets& layer : nets.layers) {
    const runtime::ShapeVariant& largest = layer.decode->variants[nets.decode_variants.back()];
    k_.push_back(largest.inputs[port::decode_history_k(slot)].memory);
    v_.push_back(largest.inputs[port::decode_history_v(slot)].memory);
  }
  zero(chip);
}

void KvRows::zero(runtime::Chip& chip) {
  // A hidden row still counts as 0 × value: NaN left in memory would spread.
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    chip.zero(k_[layer]);
    chip.zero(v_[layer]);
  }
}

runtime::MemoryRef KvRows::slice(runtime::MemoryRef memory, int row, int rows) const {
  return memory.slice(static_cast<std::size_t>(row) * row_bytes_,
                      static_cast<std::size_t>(rows) * row_bytes_);
}

void KvRows::copy_prefix(runtime::Chip& chip, const KvRows& source, int rows) {
  const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes_;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    chip.copy(k(layer, 0, rows), source.k(layer, 0, rows), bytes);
    chip.copy(v(layer, 0, rows), source.v(layer, 0, rows), bytes);
  }
}

void KvRows::save(runtime::Chip& chip, std::uint8_t* target, int rows) const {
  const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes_;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    for (const runtime::MemoryRef& memory : {k(layer, 0, rows), v(layer, 0, rows)}) {
      for (std::size_t place = 0; place < chip.count(); ++place) {
        chip.download(target, memory, bytes, place);
        target += bytes;
      }
    }
  }
}

void KvRows::restore(runtime::Chip& chip, const std::uint8_t* source, int rows,
                     std::size_t stride) {
  const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes_;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    for (const runtime::MemoryRef& memory : {k(layer, 0, rows), v(layer, 0, rows)}) {
      for (std::size_t place = 0; place < chip.count(); ++place) {
        chip.upload_to(place, memory, source, bytes);
        source += stride * row_bytes_;
      }
    }
  }
}

}  // namespace tpuserve::engine
