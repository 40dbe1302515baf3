#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tpuserve/engine/discovery.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// An image that text attends to.
struct ShownImage {
  int tiles = 0;
  int begin = 0;  // the first token that sees it
  int end = 0;    // the first behind it that does not
};

// Images of `tiles` whose tokens are at `positions`, ascending. Text sees an image from its token
// to the next image; images that follow each other at once are seen together.
std::vector<ShownImage> shown_images(const std::vector<int>& tiles,
                                     const std::vector<int>& positions);

// The images of one slot: per layer that attends to them, keys and values of `max_images`, and
// which of them belong to what the slot holds. Like KvRows the memory *is* the decode nets' own.
class ImageSlot {
 public:
  ImageSlot(const ModelNets& nets, runtime::Chip& chip, std::size_t slot);

  // The layers in the order of the model.
  std::size_t layers() const { return k_.size(); }
  // Of all images, those that are not there included.
  runtime::MemoryRef k(std::size_t layer) const { return k_[layer]; }
  runtime::MemoryRef v(std::size_t layer) const { return v_[layer]; }
  runtime::MemoryRef k(std::size_t layer, std::size_t image) const {
    return of_image(k_[layer], image, 1);
  }
  runtime::MemoryRef v(std::size_t layer, std::size_t image) const {
    return of_image(v_[layer], image, 1);
  }

  // How many of the first images are encoded.
  std::size_t encoded() const { return tiles_.size(); }
  // Image `image` has been encoded anew; at most the one behind those that were.
  void set_tiles(std::size_t image, int tiles);
  // Not any more: its memory is about to change.
  void forget_from(std::size_t image);

  const std::vector<ShownImage>& shown() const { return shown_; }
  // The first images are those of the text whose image tokens are at `positions`.
  void show(const std::vector<int>& positions);

  // Zeros instead of whatever the memory holds, and no images.
  void wipe(runtime::Chip& chip);
  // Takes over what another slot of the chip shows.
  void copy(runtime::Chip& chip, const ImageSlot& source);

 private:
  runtime::MemoryRef of_image(runtime::MemoryRef memory, std::size_t image,
                              std::size_t count) const;

  std::size_t image_bytes_;
  std::vector<runtime::MemoryRef> k_;
  std::vector<runtime::MemoryRef> v_;
  std::vector<int> tiles_;
  std::vector<ShownImage> shown_;
};

}  // namespace tpuserve::engine
