#include "tpuserve/runtime/library.h"

#include <gtest/gtest.h>

#include "test_support.h"
#include "tpuserve/errors.h"

namespace tpuserve::runtime {
namespace {

class LibraryTest : public testing::Test {
 protected:
  void install(const char* stub, const std::string& name) const {
    std::filesystem::copy_file(stub, directory_.path() / name);
  }

  std::string refusal(bool emulator = false) const {
    return error_of<LibraryError>([&] { Library::load(directory_.path().string(), emulator); });
  }

  TemporaryDirectory directory_;
};

TEST_F(LibraryTest, NamesADirectoryThatIsMissing) {
  EXPECT_EQ(error_of<LibraryError>([] { Library::load("/nowhere/at/all", false); }),
            "no directory /nowhere/at/all");
}

TEST_F(LibraryTest, NamesTheFilesThatItLooksFor) {
  EXPECT_PRED2(contains, refusal(), "no libbmlib.so.0 or libbmlib.so in ");
  directory_.write("libbmlib.so", "");
  EXPECT_PRED2(contains, refusal(), "no libbmrt.so.1.0 or libbmrt.so in ");
}

TEST_F(LibraryTest, SaysWhyAFileDoesNotLoad) {
  directory_.write("libbmlib.so.0", "no library");
  directory_.write("libbmrt.so.1.0", "no library");
  EXPECT_PRED2(contains, refusal(), "cannot load ");
  EXPECT_PRED2(contains, refusal(), "libbmlib.so.0");
}

TEST_F(LibraryTest, NamesAMissingSymbolAndItsFile) {
  install(TPUSERVE_STUB_BMLIB, "libbmlib.so.0");
  install(TPUSERVE_STUB_BMRT_NO_LAUNCH, "libbmrt.so.1.0");
  EXPECT_PRED2(contains, refusal(), "libbmrt.so.1.0 has no symbol bmrt_launch_tensor_ex");
}

TEST_F(LibraryTest, NoticesAnotherLayoutOfDeviceMemory) {
  install(TPUSERVE_STUB_BMLIB_MOVED_FIELDS, "libbmlib.so.0");
  install(TPUSERVE_STUB_BMRT, "libbmrt.so.1.0");
  EXPECT_PRED2(contains, refusal(), "libbmlib.so.0 has another layout of bm_device_mem_t");
}

TEST_F(LibraryTest, NoticesAnotherLayoutOfTensors) {
  install(TPUSERVE_STUB_BMLIB, "libbmlib.so.0");
  install(TPUSERVE_STUB_BMRT, "libbmrt.so.1.0");
  EXPECT_PRED2(contains, refusal(), "libbmrt.so.1.0 has another layout of bm_tensor_t");
}

TEST_F(LibraryTest, TheEmulatorNeedsItsThirdLibrary) {
  install(TPUSERVE_STUB_BMLIB, "libbmlib.so.0");
  install(TPUSERVE_STUB_BMRT, "libbmrt.so.1.0");
  EXPECT_PRED2(contains, refusal(/*emulator=*/true), "no libcmodel.so in ");
}

}  // namespace
}  // namespace tpuserve::runtime
