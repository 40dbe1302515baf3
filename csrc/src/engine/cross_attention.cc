#include "cross_attention.h"

#include <algorithm>
#include <cstring>

#include "tpuserve/errors.h"
#include "tpuserve/half.h"

namespace tpuserve::engine {

using runtime::DType;
using runtime::MemoryRef;
using runtime::Port;
using runtime::ShapeVariant;
using runtime::Tensor;

namespace {

std::uint32_t one_bits(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 0x3c00;
    case DType::kBfloat16:
      return 0x3f80;
    case DType::kFloat32:
      return float_to_bits(1.0F);
    default:
      throw BmodelError(std::string("hidden states of ") + name(dtype) + " are not known");
  }
}

Tensor at(const Port& port, MemoryRef memory) {
  Tensor tensor = port.tensor();
  tensor.memory = memory;
  return tensor;
}

std::size_t most_rows(const ModelNets& nets) {
  return static_cast<std::size_t>(std::max(nets.prefill_rows, nets.spec.decode_rows));
}

std::size_t all_columns(const ModelNets& nets) {
  return static_cast<std::size_t>(nets.spec.vision->max_images) * nets.spec.vision->image_rows();
}

}  // namespace

CrossAttention::CrossAttention(runtime::Chip& chip, const ModelNets& nets)
    : chip_(chip),
      image_columns_(nets.spec.vision->image_rows()),
      tile_columns_(static_cast<std::size_t>(nets.spec.vision->tile_tokens)),
      columns_(all_columns(nets)),
      one_(one_bits(nets.spec.dtype)),
      element_bytes_(size_bytes(nets.spec.dtype)),
      mask_memory_(chip, most_rows(nets) * columns_ * element_bytes_),
      row_memory_(chip, most_rows(nets) * element_bytes_),
      mask_(nets.spec.dtype) {}

void CrossAttention::build(const std::vector<ImageRow>& rows) {
  mask_.open(rows.size(), columns_);
  row_mask_.assign(rows.size() * element_bytes_, 0);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (rows[row].slot == nullptr) continue;
    const std::vector<ShownImage>& shown = rows[row].slot->shown();
    const auto sees = [&](const ShownImage& image) {
      return image.begin <= rows[row].position && rows[row].position < image.end;
    };
    // A token that sees nothing attends to all images, tiles that are not there included, and its
    // MLP is left out: so the model was trained.
    const bool any = std::any_of(shown.begin(), shown.end(), sees);
    if (any) std::memcpy(row_mask_.data() + row * element_bytes_, &one_, element_bytes_);
    for (std::size_t image = 0; any && image < shown.size(); ++image) {
      const std::size_t begin = image * image_columns_;
      const auto tiles = static_cast<std::size_t>(sees(shown[image]) ? shown[image].tiles : 0);
      mask_.hide(row, begin + tiles * tile_columns_, begin + image_columns_);
    }
    mask_.hide(row, shown.size() * image_columns_, columns_);
  }
  chip_.upload(mask_memory_.ref(), mask_.data(), mask_.size_bytes());
  chip_.upload(row_memory_.ref(), row_mask_.data(), row_mask_.size());
}

void CrossAttention::begin_prefill(const ImageSlot& slot, int position, int rows) {
  rows_.clear();
  for (int row = 0; row < rows; ++row) rows_.push_back({&slot, position + row});
  build(rows_);
}

void CrossAttention::prefill(runtime::Bmodel& bmodel, const CrossNets& nets, std::size_t number,
                             const ImageSlot& slot, MemoryRef states, MemoryRef out_states) {
  const ShapeVariant& variant = nets.prefill->variants[0];
  bmodel.launch(*nets.prefill,
                {at(variant.inputs[cross_port::kStates], states),
                 at(variant.inputs[cross_port::kRowMask], row_memory_.ref()),
                 at(variant.inputs[cross_port::kMask], mask_memory_.ref()),
                 at(variant.inputs[cross_port::k(0)], slot.k(number)),
                 at(variant.inputs[cross_port::v(0)], slot.v(number))},
                {at(variant.outputs[0], out_states)});
}

void CrossAttention::begin_decode(const std::vector<ImageRow>& rows) { build(rows); }

void CrossAttention::decode(runtime::Bmodel& bmodel, const CrossNets& nets, MemoryRef states) {
  const int rows = static_cast<int>(row_mask_.size() / element_bytes_);
  const ShapeVariant& variant = *nets.decode.by_rows.at(rows);
  std::vector<Tensor> inputs;
  for (const Port& port : variant.inputs) inputs.push_back(port.tensor());
  const Port& own = variant.inputs[cross_port::kStates];
  // Through the net's own input: it must not read where it writes.
  chip_.copy(own.memory, states, own.shape.elements() * size_bytes(own.dtype));
  inputs[cross_port::kRowMask].memory = row_memory_.ref();
  inputs[cross_port::kMask].memory = mask_memory_.ref();
  bmodel.launch(*nets.decode.net, inputs, {at(variant.outputs[0], states)});
}

}  // namespace tpuserve::engine
