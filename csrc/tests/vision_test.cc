// Images of slots on the chip emulator. That the numbers are right is checked against a reference
// by the golden tests in Python; here: that slots keep apart what they see.
#include <stdexcept>
#include <vector>

#include "emulator_fixture.h"
#include "test_support.h"
#include "tpuserve/engine/engine.h"

namespace tpuserve::engine {
namespace {

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

class VisionTest : public EmulatorTest {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    if (library_ == nullptr) return;
    const std::string path = bmodel("tests/fixtures/models/mllama/vision_f16.bmodel");
    EngineOptions options;
    options.slots = 3;
    options.deterministic = true;
    engine_ = std::make_unique<Engine>(library_, std::vector<runtime::BmodelSource>{path},
                                       std::vector<int>{0}, options);
  }

  // Of one tile, all in one shade.
  std::vector<float> pixels(float shade) const {
    const VisionSpec& vision = *engine_->spec().vision;
    const auto side = static_cast<std::size_t>(vision.image_size);
    return std::vector<float>(static_cast<std::size_t>(vision.channels) * side * side, shade);
  }
  void look(int slot, float shade) {
    engine_->encode_image(slot, 0, pixels(shade).data(), 1);
    engine_->show_images(slot, {1});
  }
  Logits prefill(int slot) {
    Logits logits(static_cast<std::size_t>(engine_->spec().vocab_size));
    const HeadRows row{logits.data(), nullptr};
    engine_->prefill(slot, ids_.data(), ids_.size(), 0, &row);
    return logits;
  }
  std::vector<Logits> decode(const std::vector<int>& slots) {
    const auto width = static_cast<std::size_t>(engine_->spec().vocab_size);
    std::vector<float> rows(slots.size() * width);
    const Ids next(slots.size(), 9);
    engine_->decode(slots, next.data(), {rows.data(), nullptr});
    std::vector<Logits> result;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(i * width);
      result.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(width));
    }
    return result;
  }

  const Ids ids_ = {7, 512, 8};
  std::unique_ptr<Engine> engine_;
};

TEST_F(VisionTest, SlotsSeeTheirOwnImages) {
  look(0, 0.5F);
  look(1, -0.5F);
  const std::vector<Logits> first = {prefill(0), prefill(1), prefill(2)};
  EXPECT_NE(first[0], first[1]);
  EXPECT_NE(first[0], first[2]);
  const std::vector<Logits> together = decode({0, 1, 2});
  for (int slot = 0; slot < 3; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    EXPECT_EQ(prefill(slot), first[index]);
    EXPECT_EQ(decode({slot}).front(), together[index]);
  }
}

TEST_F(VisionTest, ACopiedPrefixBringsItsImages) {
  look(0, 0.5F);
  look(1, -0.5F);
  prefill(0);
  prefill(1);
  engine_->copy_prefix(0, 1, 3);
  const std::vector<Logits> rows = decode({0, 1});
  EXPECT_EQ(rows[0], rows[1]);
  // From a text without images there are none to bring.
  prefill(2);
  engine_->copy_prefix(2, 1, 3);
  EXPECT_EQ(engine_->encoded_images(1), 0);
  EXPECT_EQ(decode({1}), decode({2}));
}

TEST_F(VisionTest, EncodedImagesStayUntilTheSlotIsWiped) {
  look(0, 0.5F);
  const Logits seen = prefill(0);
  engine_->free(0);
  engine_->show_images(0, {});
  const Logits unseen = prefill(0);
  EXPECT_NE(seen, unseen);
  engine_->show_images(0, {1});
  EXPECT_EQ(prefill(0), seen);
  engine_->wipe(0);
  EXPECT_EQ(engine_->encoded_images(0), 0);
  EXPECT_EQ(prefill(0), unseen);
  EXPECT_PRED2(contains, error_of<std::invalid_argument>([this] { engine_->show_images(0, {1}); }),
               "1 images to show: slot 0 has 0");
}

}  // namespace
}  // namespace tpuserve::engine
