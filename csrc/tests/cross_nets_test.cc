// Which layers attend to images, and what tokens see of them. That the numbers are right is checked
// against a reference by the golden tests in Python.
#include "engine/cross_nets.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "emulator_fixture.h"
#include "engine/image_slot.h"
#include "test_support.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/errors.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {
namespace {

using runtime::Net;
using runtime::Port;
using runtime::Shape;
using Nets = std::vector<Net>;

// The nets of the small vision model, to change and to discover.
class CrossNetsTest : public EmulatorTest {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    if (library_ == nullptr) return;
    const auto chip = runtime::Chip::open(*library_, 0);
    nets_ = runtime::Bmodel(*chip, bmodel("tests/fixtures/models/mllama/vision_f16.bmodel")).nets();
  }

  Net& net(const std::string& name) {
    return *std::find_if(nets_.begin(), nets_.end(),
                         [&name](const Net& net) { return net.name == name; });
  }
  void remove(const std::string& name) { nets_.erase(nets_.begin() + (&net(name) - nets_.data())); }
  std::string refusal() const {
    return error_of<BmodelError>([this] { discover(nets_); });
  }

  Nets nets_;
};

TEST_F(CrossNetsTest, LayersThatAttendToImagesComeBeforeThoseThatFollowThem) {
  const ModelNets model = discover(nets_);
  ASSERT_EQ(model.layers.size(), 3U);
  EXPECT_EQ(model.layers[0].crossing.size(), 0U);
  EXPECT_EQ(model.layers[1].crossing.at(0).prefill->name, "block_1");
  EXPECT_EQ(model.layers[1].decode->name, "block_cache_2");
  EXPECT_EQ(model.layers[2].crossing.at(0).decode.net->name, "block_cache_3");
  ASSERT_TRUE(model.spec.vision.has_value());
  const VisionSpec& vision = *model.spec.vision;
  EXPECT_EQ(vision.max_images, 2);
  EXPECT_EQ(vision.max_tiles, 4);
  EXPECT_EQ(vision.tile_tokens, 26);
  EXPECT_EQ(vision.image_size, 70);
  EXPECT_EQ(vision.layers, 2);
  EXPECT_EQ(vision.ratios(), 8);
  EXPECT_EQ(vision.tiles_of_ratio(6), 4);
  EXPECT_EQ(vision.tiles_of_ratio(9), 0);
}

TEST_F(CrossNetsTest, NamesWhatIsMissing) {
  const Nets all = nets_;
  remove("vit");
  EXPECT_PRED2(contains, refusal(), "no net vit");
  nets_ = all;
  remove("block_cache_3");
  EXPECT_PRED2(contains, refusal(), "net cross_kv_3 has no block_3 and block_cache_3 beside it");
  nets_ = all;
  for (const char* name : {"block_4", "block_kv_4", "block_cache_4"}) remove(name);
  EXPECT_PRED2(contains, refusal(), "net cross_kv_3: expected a layer behind it");
}

TEST_F(CrossNetsTest, NamesTheTensorThatDoesNotFit) {
  Port& keys = net("block_3").variants[0].inputs[cross_port::k(0)];
  keys.shape.set(1, 104);
  EXPECT_PRED2(contains, refusal(),
               "net block_3, image k (image_k_0): expected float16 [1, 208, 2, 16], not float16 "
               "[1, 104, 2, 16]");
  net("block_1").variants[0].inputs[cross_port::k(0)].shape.set(1, 100);
  EXPECT_PRED2(contains, refusal(),
               "net block_1: expected keys of whole images, 104 rows each, not 100");
}

TEST_F(CrossNetsTest, DecodeNetsHoldTheImagesOfTheirSlots) {
  const Nets all = nets_;
  net("block_cache_1").io_alone = false;
  EXPECT_PRED2(contains, refusal(), "net block_cache_1: expected a static net compiled with");
  nets_ = all;
  net("block_cache_1").variants.pop_back();
  EXPECT_PRED2(contains, refusal(), "net block_cache_1: expected a shape variant for 1 rows");
  nets_ = all;
  ++net("block_cache_1").variants.back().inputs[cross_port::v(0)].memory.address;
  EXPECT_PRED2(
      contains, refusal(),
      "net block_cache_1: expected all shape variants to share the memory of their images");
}

TEST_F(CrossNetsTest, APartOfAModelCannotLookAtImages) {
  EXPECT_PRED2(contains, error_of<BmodelError>([this] { discover(nets_, PartRole{true, false}); }),
               "runs on one chip");
}

TEST_F(CrossNetsTest, TheVendorsOwnFormIsNamed) {
  for (const char* name : {"cross_kv_1", "cross_kv_3"}) remove(name);
  Net& layer = net("block_1");
  layer.variants[0].inputs = {
      layer.variants[0].inputs[0],
      {"cross_attention_states", layer.variants[0].inputs[0].dtype, Shape{4, 26, 128}, {}},
      layer.variants[0].inputs[1],
      layer.variants[0].inputs[2]};
  EXPECT_PRED2(contains, refusal(), "net block_1 takes the states of an image");
}

TEST(ShownImagesTest, TextSeesAnImageUntilTheNext) {
  constexpr int kEver = std::numeric_limits<int>::max();
  const auto ranges = [](const std::vector<int>& positions) {
    std::vector<std::vector<int>> result;
    const std::vector<int> tiles(positions.size(), 1);
    for (const ShownImage& image : shown_images(tiles, positions)) {
      result.push_back({image.begin, image.end});
    }
    return result;
  };
  using Ranges = std::vector<std::vector<int>>;
  EXPECT_EQ(ranges({}), Ranges{});
  EXPECT_EQ(ranges({5}), (Ranges{{5, kEver}}));
  EXPECT_EQ(ranges({2, 9}), (Ranges{{2, 9}, {9, kEver}}));
  // Neighbours end together.
  EXPECT_EQ(ranges({2, 3, 9, 10}), (Ranges{{2, 9}, {3, 9}, {9, kEver}, {10, kEver}}));
}

}  // namespace
}  // namespace tpuserve::engine
