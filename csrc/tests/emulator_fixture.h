#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "tpuserve/runtime/library.h"

namespace tpuserve {

// Tests on the chip emulator. TPUSERVE_EMULATOR_DIR names the directory of its libraries; `make
// test` sets it, and without it these tests are skipped.
class EmulatorTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* directory = std::getenv("TPUSERVE_EMULATOR_DIR");
    if (directory == nullptr) GTEST_SKIP() << "TPUSERVE_EMULATOR_DIR is not set";
    library_ = runtime::Library::load(directory, /*emulator=*/true);
  }

  // A bmodel of the source tree.
  static std::string bmodel(const std::string& name) {
    return std::string(TPUSERVE_SOURCE_DIR) + "/" + name;
  }

  std::shared_ptr<runtime::Library> library_;
};

}  // namespace tpuserve
