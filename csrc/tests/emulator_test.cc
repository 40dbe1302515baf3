// The runtime layer on the vendor's real libraries.

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "emulator_fixture.h"
#include "runtime/symbols.h"
#include "test_support.h"
#include "tpuserve/errors.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::runtime {
namespace {

class RuntimeTest : public EmulatorTest {};

TEST_F(RuntimeTest, TheLibraryTellsOfItself) {
  EXPECT_TRUE(library_->emulator());
  EXPECT_EQ(library_->chip_count(), 1);
  EXPECT_PRED2(contains, library_->version(), "libbmrt_version");
}

TEST_F(RuntimeTest, ReadingsThatTheEmulatorLacksAreEmpty) {
  const ChipStatus status = library_->chip_status(0);
  EXPECT_EQ(status.chip, 0);
  EXPECT_EQ(status.clock_hz, 1'000'000'000U);
  EXPECT_FALSE(status.memory_total_bytes.has_value());
  EXPECT_FALSE(status.temperature_celsius.has_value());
  EXPECT_FALSE(status.power_watts.has_value());
}

TEST_F(RuntimeTest, AChipThatDoesNotExistIsRefusedBeforeTheVendorEndsTheProcess) {
  for (const int id : {-1, 8, 1000}) {
    EXPECT_PRED2(contains, error_of<std::invalid_argument>([&] { Chip::open(*library_, id); }),
                 "chip " + std::to_string(id) + " does not exist");
    EXPECT_THROW(library_->chip_status(id), std::invalid_argument);
  }
}

TEST_F(RuntimeTest, OpeningAChipLeavesTheArithmeticAlone) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  volatile float tiny = 1e-38F;
  EXPECT_GT(tiny / 16, 0.0F);
}

TEST_F(RuntimeTest, MemoryIsWrittenCopiedZeroedAndRead) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  const DeviceMemory a(*chip, 1000);
  const DeviceMemory b(*chip, 1000);
  std::vector<std::uint8_t> bytes(1000);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  chip->upload(a.ref(), bytes.data(), bytes.size());
  chip->zero(b.ref());
  chip->copy(b.ref().slice(1, 998), a.ref().slice(2, 998), 998);
  std::vector<std::uint8_t> read(1000, 0xff);
  chip->download(read.data(), b.ref(), read.size());
  EXPECT_EQ(read.front(), 0);
  EXPECT_EQ(read.back(), 0);
  for (std::size_t i = 1; i < 999; ++i) ASSERT_EQ(read[i], bytes[i + 1]) << i;
}

TEST_F(RuntimeTest, AThreadThatHasSentNothingMayRead) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  const DeviceMemory memory(*chip, 4);
  const std::uint32_t sent = 4711;
  std::uint32_t read = 0;
  std::thread([&] {
    chip->upload(memory.ref(), &sent, sizeof sent);
    chip->download(&read, memory.ref(), sizeof read);
    chip->sync();
  }).join();
  EXPECT_EQ(read, sent);
}

TEST_F(RuntimeTest, SizesPastTheEndNeverReachTheChip) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  const DeviceMemory memory(*chip, 16);
  std::vector<std::uint8_t> bytes(17);
  EXPECT_THROW(chip->upload(memory.ref(), bytes.data(), 17), std::out_of_range);
  EXPECT_THROW(chip->download(bytes.data(), memory.ref(), 17), std::out_of_range);
  EXPECT_THROW(chip->allocate(std::size_t{1} << 32), DeviceError);
}

TEST_F(RuntimeTest, NetsAreReadWithTheirVariantsAndWeights) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  const Bmodel model(*chip, bmodel("models/demo/demo_f16.bmodel"));
  const Net* decode = model.find("block_cache_0");
  ASSERT_NE(decode, nullptr);
  EXPECT_TRUE(decode->io_alone);
  EXPECT_FALSE(decode->dynamic);
  EXPECT_GT(decode->variants.size(), 1U);
  EXPECT_EQ(decode->variants[0].inputs.size(), 5U);
  EXPECT_EQ(decode->variants[0].inputs[0].name, "input_states");
  const Net* prefill = model.find("block_0");
  ASSERT_NE(prefill, nullptr);
  EXPECT_TRUE(prefill->dynamic);
  EXPECT_FALSE(prefill->io_alone);
  const Net* embedding = model.find("embedding");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(model.weight_bytes(*embedding).size(), 1U);
  EXPECT_EQ(model.find("block_99"), nullptr);
}

TEST_F(RuntimeTest, AShapeThatTheNetWasNotCompiledForIsALaunchError) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  Bmodel model(*chip, bmodel("models/demo/demo_f16.bmodel"));
  const Net& net = *model.find("embedding_cache");
  Tensor ids = net.variants[0].inputs[0].tensor();
  ids.shape = {1, 3};
  EXPECT_PRED2(contains, error_of<LaunchError>([&] {
                 model.launch(net, {ids}, {net.variants[0].outputs[0].tensor()});
               }),
               "net embedding_cache failed to launch on chip 0");
  // The runtime is still good for the next launch.
  model.launch(net, {net.variants[0].inputs[0].tensor()}, {net.variants[0].outputs[0].tensor()});
  chip->sync();
}

TEST_F(RuntimeTest, ATruncatedBmodelIsRefusedBeforeTheVendorReadsIt) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "short.bmodel").string();
  std::filesystem::copy_file(bmodel("models/demo/demo_f16.bmodel"), path);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { Bmodel(*chip, path); }), "truncated");
}

TEST_F(RuntimeTest, ABmodelWhoseDescriptionIsGarbageIsRefused) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "garbage.bmodel").string();
  std::filesystem::copy_file(bmodel("models/demo/demo_f16.bmodel"), path);
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(64);
    file << std::string(4096, '\xff');
  }
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  EXPECT_PRED2(contains, error_of<BmodelError>([&] { Bmodel(*chip, path); }),
               "garbage.bmodel: the description of the nets is damaged");
}

// The emulator says why it ends the process on standard output, which is silenced: the reason must
// still arrive on standard error.
TEST_F(RuntimeTest, TheEmulatorsLastWordsAreHeard) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  abi::Handle handle = nullptr;
  EXPECT_EXIT(library_->access(0).symbols.bm_dev_request(&handle, 1), testing::ExitedWithCode(255),
              "dev_id < max_dev_cnt");
}

TEST_F(RuntimeTest, AnIdleEmulatorSleeps) {
  const std::unique_ptr<Chip> chip = Chip::open(*library_, 0);
  chip->sync();
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double busy_s = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  // Uncalmed, its threads take all cores: 0.5 s and more. Calmed it is about 0.005 s.
  EXPECT_LT(busy_s, 0.1);
}

}  // namespace
}  // namespace tpuserve::runtime
