#pragma once

#include <cstdint>
#include <vector>

#include "image_slot.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// An image ready for the nets: [tiles, channels, side, side] floats.
struct Image {
  const float* pixels;
  int tiles;
  int ratio;  // the model's number of its aspect ratio, from 1
};

// Runs the image nets of any context of one bmodel: pixels to the keys and values that text attends
// to. They are computed once for an image; what the image net gives is not kept.
class Vision {
 public:
  Vision(runtime::Chip& chip, const ModelNets& nets);

  // Makes `image` image number `index` of the slot. Waits until it is done.
  void encode(runtime::Bmodel& bmodel, const ModelNets& nets, const Image& image, ImageSlot& slot,
              std::size_t index);

 private:
  void upload(const runtime::ShapeVariant& variant, const Image& image);

  runtime::Chip& chip_;
  // Apart from the nets' own memory, which overlaps between the nets of a runtime.
  runtime::DeviceMemory states_;
  std::vector<float> pixels_;
};

}  // namespace tpuserve::engine
