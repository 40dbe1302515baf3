#include "cross_nets.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "signature.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

using runtime::DType;
using runtime::Net;
using runtime::ShapeVariant;

namespace {

const ShapeVariant& only_variant(const Net& net) {
  if (!net.dynamic && net.variants.size() == 1) return net.variants[0];
  throw BmodelError("net " + net.name + ": expected a static net with one shape variant");
}

std::size_t slots(const ModelNets& model) {
  return static_cast<std::size_t>(model.spec.decode_rows);
}

class CrossReader {
 public:
  explicit CrossReader(ModelNets& model) : model_(model), spec_(model.spec) {}

  void read() {
    read_vit();
    for (LayerNets& layer : model_.layers) {
      for (CrossNets& nets : layer.crossing) {
        check_image(*nets.image);
        check_prefill(*nets.prefill);
        read_decode(nets);
        ++spec_.vision->layers;
      }
    }
  }

 private:
  void read_vit() {
    const Net* net = model_.vit;
    if (net == nullptr) throw BmodelError("no net vit: layers attend to images that nothing makes");
    const ShapeVariant& variant = only_variant(*net);
    const Signature signature(*net, variant);
    signature.counts(3, 1);
    constexpr int kAny = Signature::kAny;
    signature.input(image_port::kPixels, "pixels", {kAny, kAny, kAny, kAny}, DType::kFloat32);
    const runtime::Shape& pixels = variant.inputs[image_port::kPixels].shape;
    const int tiles = pixels[0];
    signature.input(image_port::kPixels, "pixels", {tiles, kAny, pixels[2], pixels[2]},
                    DType::kFloat32);
    signature.input(image_port::kRatio, "aspect ratio", {1, 1}, DType::kInt32);
    signature.input(image_port::kTiles, "tile mask", {1, 1, tiles}, DType::kInt32);
    signature.output(0, "image states", {tiles, kAny, spec_.hidden_size}, spec_.dtype);
    VisionSpec vision;
    vision.max_tiles = tiles;
    vision.channels = pixels[1];
    vision.image_size = pixels[2];
    vision.tile_tokens = variant.outputs[0].shape[1];
    spec_.vision = vision;
  }

  int image_columns() const { return spec_.vision->max_tiles * spec_.vision->tile_tokens; }
  int columns() const { return spec_.vision->max_images * image_columns(); }
  std::vector<int> kv(int rows) const { return {1, rows, spec_.kv_heads, spec_.head_dim}; }

  void check_image(const Net& net) const {
    const Signature signature(net, only_variant(net));
    signature.counts(1, 2);
    const VisionSpec& vision = *spec_.vision;
    signature.input(0, "image states", {vision.max_tiles, vision.tile_tokens, spec_.hidden_size},
                    spec_.dtype);
    signature.output(0, "k", kv(image_columns()), spec_.dtype);
    signature.output(1, "v", kv(image_columns()), spec_.dtype);
  }

  void check_prefill(const Net& net) {
    const ShapeVariant& variant = only_variant(net);
    const Signature signature(net, variant);
    signature.counts(cross_port::k(1), 1);
    if (spec_.vision->max_images == 0) read_images(net, variant);
    check_layer(signature, 1, model_.prefill_rows, 1);
  }

  // The first of these nets tells for how many images they are all made.
  void read_images(const Net& net, const ShapeVariant& variant) {
    const Signature signature(net, variant);
    signature.rank(cross_port::k(0), "image k", 4);
    const int rows = variant.inputs[cross_port::k(0)].shape[1];
    if (rows < 1 || rows % image_columns() != 0) {
      throw BmodelError("net " + net.name + ": expected keys of whole images, " +
                        std::to_string(image_columns()) + " rows each, not " +
                        std::to_string(rows));
    }
    spec_.vision->max_images = rows / image_columns();
  }

  void check_layer(const Signature& signature, int rows, int tokens, std::size_t sequences) const {
    const std::vector<int> states = {rows, tokens, spec_.hidden_size};
    signature.input(cross_port::kStates, "hidden states", states, spec_.dtype);
    signature.input(cross_port::kRowMask, "row mask", {rows, tokens, 1}, spec_.dtype);
    signature.input(cross_port::kMask, "mask", {rows, 1, tokens, columns()}, spec_.dtype);
    for (std::size_t slot = 0; slot < sequences; ++slot) {
      signature.input(cross_port::k(slot), "image k", kv(columns()), spec_.dtype);
      signature.input(cross_port::v(slot), "image v", kv(columns()), spec_.dtype);
    }
    signature.output(0, "hidden states", states, spec_.dtype);
  }

  void read_decode(CrossNets& nets) const {
    const Net& net = *nets.decode.net;
    if (net.dynamic || !net.io_alone) {
      throw BmodelError("net " + net.name +
                        ": expected a static net compiled with addr_mode io_alone, so that its "
                        "inputs can hold the images of a slot");
    }
    for (const ShapeVariant& variant : net.variants) {
      const Signature signature(net, variant);
      signature.counts(cross_port::k(slots(model_)), 1);
      signature.rank(cross_port::kStates, "hidden states", 3);
      const int rows = variant.inputs[cross_port::kStates].shape[0];
      check_layer(signature, rows, 1, slots(model_));
      nets.decode.by_rows[rows] = &variant;
    }
    for (const DecodeShape& shape : spec_.decode_variants) {
      if (nets.decode.by_rows.count(shape.rows) == 0) {
        throw BmodelError("net " + net.name + ": expected a shape variant for " +
                          std::to_string(shape.rows) + " rows");
      }
    }
    check_memory(nets.decode);
  }

  void check_memory(const RowsNet& net) const {
    for (const auto& [rows, variant] : net.by_rows) {
      for (std::size_t slot = 0; slot < slots(model_); ++slot) {
        for (const std::size_t input : {cross_port::k(slot), cross_port::v(slot)}) {
          if (variant->inputs[input].memory.address == net.widest().inputs[input].memory.address) {
            continue;
          }
          throw BmodelError("net " + net.net->name +
                            ": expected all shape variants to share the memory of their images");
        }
      }
    }
  }

  ModelNets& model_;
  ModelSpec& spec_;
};

}  // namespace

std::optional<CrossNets> find_cross_nets(const FindNet& find, int number) {
  const std::string layer = std::to_string(number);
  CrossNets nets;
  nets.image = find("cross_kv_" + layer);
  if (nets.image == nullptr) return std::nullopt;
  nets.prefill = find("block_" + layer);
  nets.decode.net = find("block_cache_" + layer);
  if (nets.prefill == nullptr || nets.decode.net == nullptr) {
    throw BmodelError("net " + nets.image->name + " has no block_" + layer + " and block_cache_" +
                      layer + " beside it");
  }
  return nets;
}

void refuse_repeated_keys(const Net& prefill) {
  constexpr std::size_t kInputs = 4;  // states, states of an image, masks of rows and of columns
  if (prefill.dynamic || prefill.variants.empty()) return;
  const std::vector<runtime::Port>& inputs = prefill.variants[0].inputs;
  if (inputs.size() != kInputs || inputs[1].shape.rank() != 3) return;
  throw BmodelError("net " + prefill.name + " takes the states of an image (" + inputs[1].name +
                    "): compile the checkpoint again, for nets that compute keys and values of an "
                    "image once");
}

void read_cross_nets(ModelNets& model) {
  const auto crosses = [](const LayerNets& layer) { return !layer.crossing.empty(); };
  if (std::none_of(model.layers.begin(), model.layers.end(), crosses)) return;
  if (!model.role.first || !model.role.last) {
    throw BmodelError("layers attend to images: such a model runs on one chip, as a whole");
  }
  if (model.history_rows > 0 && model.history_rows != model.prefill_rows) {
    throw BmodelError("layers attend to images: expected first and later chunks of one size, not " +
                      std::to_string(model.prefill_rows) + " and " +
                      std::to_string(model.history_rows) + " tokens");
  }
  CrossReader(model).read();
}

}  // namespace tpuserve::engine
