#include "image_slot.h"

#include <limits>

namespace tpuserve::engine {

std::vector<ShownImage> shown_images(const std::vector<int>& tiles,
                                     const std::vector<int>& positions) {
  std::vector<ShownImage> shown(positions.size());
  int end = std::numeric_limits<int>::max();
  for (std::size_t i = positions.size(); i-- > 0;) {
    const bool last = i + 1 == positions.size();
    if (!last && positions[i + 1] != positions[i] + 1) end = positions[i + 1];
    shown[i] = {tiles[i], positions[i], end};
  }
  return shown;
}

ImageSlot::ImageSlot(const ModelNets& nets, runtime::Chip& chip, std::size_t slot)
    : image_bytes_(nets.spec.vision->image_rows() * static_cast<std::size_t>(nets.spec.kv_heads) *
                   static_cast<std::size_t>(nets.spec.head_dim) * size_bytes(nets.spec.dtype)) {
  for (const LayerNets& layer : nets.layers) {
    for (const CrossNets& crossing : layer.crossing) {
      const runtime::ShapeVariant& widest = crossing.decode.widest();
      k_.push_back(widest.inputs[cross_port::k(slot)].memory);
      v_.push_back(widest.inputs[cross_port::v(slot)].memory);
    }
  }
  wipe(chip);
}

void ImageSlot::wipe(runtime::Chip& chip) {
  forget_from(0);
  // What is hidden still counts as 0 × value: NaN left in memory would spread.
  for (const runtime::MemoryRef& memory : k_) chip.zero(memory);
  for (const runtime::MemoryRef& memory : v_) chip.zero(memory);
}

runtime::MemoryRef ImageSlot::of_image(runtime::MemoryRef memory, std::size_t image,
                                       std::size_t count) const {
  return memory.slice(image * image_bytes_, count * image_bytes_);
}

void ImageSlot::set_tiles(std::size_t image, int tiles) {
  if (image == tiles_.size()) {
    tiles_.push_back(tiles);
  } else {
    tiles_[image] = tiles;
  }
}

void ImageSlot::forget_from(std::size_t image) {
  if (image < tiles_.size()) tiles_.resize(image);
  if (image < shown_.size()) shown_.clear();
}

void ImageSlot::show(const std::vector<int>& positions) {
  shown_ = shown_images(tiles_, positions);
}

void ImageSlot::copy(runtime::Chip& chip, const ImageSlot& source) {
  forget_from(0);
  const std::size_t images = source.shown_.size();
  for (std::size_t layer = 0; images > 0 && layer < layers(); ++layer) {
    const std::size_t bytes = images * image_bytes_;
    chip.copy(of_image(k_[layer], 0, images), source.of_image(source.k_[layer], 0, images), bytes);
    chip.copy(of_image(v_[layer], 0, images), source.of_image(source.v_[layer], 0, images), bytes);
  }
  for (std::size_t image = 0; image < images; ++image) set_tiles(image, source.tiles_[image]);
  shown_ = source.shown_;
}

}  // namespace tpuserve::engine
