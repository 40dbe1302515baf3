#include "vision.h"

#include <algorithm>

namespace tpuserve::engine {

using runtime::Port;
using runtime::ShapeVariant;
using runtime::Tensor;

namespace {

std::size_t bytes_of(const Port& port) { return port.shape.elements() * size_bytes(port.dtype); }

Tensor at(const Port& port, runtime::MemoryRef memory) {
  Tensor tensor = port.tensor();
  tensor.memory = memory;
  return tensor;
}

}  // namespace

int VisionSpec::tiles_of_ratio(int ratio) const {
  int number = 0;
  for (int width = 1; width <= max_tiles; ++width) {
    for (int height = 1; width * height <= max_tiles; ++height) {
      if (++number == ratio) return width * height;
    }
  }
  return 0;
}

int VisionSpec::ratios() const {
  int number = 0;
  while (tiles_of_ratio(number + 1) > 0) ++number;
  return number;
}

Vision::Vision(runtime::Chip& chip, const ModelNets& nets)
    : chip_(chip), states_(chip, bytes_of(nets.vit->variants[0].outputs[0])) {}

void Vision::upload(const ShapeVariant& variant, const Image& image) {
  const Port& pixels = variant.inputs[image_port::kPixels];
  const std::size_t tile = pixels.shape.elements() / static_cast<std::size_t>(pixels.shape[0]);
  // Tiles that are not there are zeros, which the image net does look at.
  pixels_.assign(pixels.shape.elements(), 0.0F);
  std::copy_n(image.pixels, static_cast<std::size_t>(image.tiles) * tile, pixels_.begin());
  std::vector<std::int32_t> mask(static_cast<std::size_t>(pixels.shape[0]), 0);
  std::fill_n(mask.begin(), image.tiles, 1);
  const std::int32_t ratio = image.ratio;
  chip_.upload(pixels.memory, pixels_.data(), pixels_.size() * sizeof(float));
  chip_.upload(variant.inputs[image_port::kRatio].memory, &ratio, sizeof ratio);
  chip_.upload(variant.inputs[image_port::kTiles].memory, mask.data(),
               mask.size() * sizeof(std::int32_t));
}

void Vision::encode(runtime::Bmodel& bmodel, const ModelNets& nets, const Image& image,
                    ImageSlot& slot, std::size_t index) {
  slot.forget_from(index);
  const ShapeVariant& vit = nets.vit->variants[0];
  upload(vit, image);
  std::vector<Tensor> inputs;
  for (const Port& port : vit.inputs) inputs.push_back(port.tensor());
  bmodel.launch(*nets.vit, inputs, {at(vit.outputs[0], states_.ref())});
  std::size_t number = 0;
  for (const LayerNets& layer : nets.layers) {
    for (const CrossNets& crossing : layer.crossing) {
      const ShapeVariant& variant = crossing.image->variants[0];
      bmodel.launch(*crossing.image, {at(variant.inputs[0], states_.ref())},
                    {at(variant.outputs[0], slot.k(number, index)),
                     at(variant.outputs[1], slot.v(number, index))});
      ++number;
    }
  }
  // The next image's pixels go where these launches read.
  chip_.sync();
  slot.set_tiles(index, image.tiles);
}

}  // namespace tpuserve::engine
