#pragma once

#include <cstdint>
#include <vector>

#include "image_slot.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/engine/mask.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// What a token of a launch sees of the images of its slot.
struct ImageRow {
  const ImageSlot* slot = nullptr;  // null: nothing, and the layer leaves the row as it is
  int position = 0;
};

// Runs the layers that attend to images, for prefill and decode steps of one context. Where no
// image is shown the caller leaves them out.
class CrossAttention {
 public:
  CrossAttention(runtime::Chip& chip, const ModelNets& nets);

  // Masks of `rows` tokens from `position` on.
  void begin_prefill(const ImageSlot& slot, int position, int rows);
  // Layer `number` of those that attend to images: states to other memory. Does not wait.
  void prefill(runtime::Bmodel& bmodel, const CrossNets& nets, std::size_t number,
               const ImageSlot& slot, runtime::MemoryRef states, runtime::MemoryRef out_states);

  // Masks of a decode step: one entry per row of its launch.
  void begin_decode(const std::vector<ImageRow>& rows);
  // In place: the states of the rows that began are there before and after. Does not wait.
  void decode(runtime::Bmodel& bmodel, const CrossNets& nets, runtime::MemoryRef states);

 private:
  void build(const std::vector<ImageRow>& rows);

  runtime::Chip& chip_;
  std::size_t image_columns_;
  std::size_t tile_columns_;
  std::size_t columns_;
  std::uint32_t one_;  // bits of 1 in the type of the states
  std::size_t element_bytes_;
  runtime::DeviceMemory mask_memory_;
  runtime::DeviceMemory row_memory_;
  Mask mask_;
  std::vector<std::uint8_t> row_mask_;
  std::vector<ImageRow> rows_;
};

}  // namespace tpuserve::engine
