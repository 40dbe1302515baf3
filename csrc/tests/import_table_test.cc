#include "runtime/import_table.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace tpuserve::runtime {
namespace {

int fixed_answer() { return 4711; }

class ImportTableTest : public testing::Test {
 protected:
  void SetUp() override {
    library_ = dlopen(TPUSERVE_IMPORT_PROBE, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    probe_ = reinterpret_cast<int (*)()>(dlsym(library_, "probe_parent"));
    ASSERT_NE(probe_, nullptr);
  }
  void TearDown() override { dlclose(library_); }

  ImportTable::Redirection redirection(const char* name) {
    return {name, reinterpret_cast<void*>(&fixed_answer), &original_};
  }

  void* library_ = nullptr;
  int (*probe_)() = nullptr;
  void* original_ = nullptr;
};

TEST_F(ImportTableTest, RedirectsOneLibraryAndNotTheOthers) {
  EXPECT_EQ(probe_(), getppid());
  EXPECT_TRUE(ImportTable(library_).redirect_all({redirection("getppid")}));
  EXPECT_EQ(probe_(), 4711);
  EXPECT_NE(getppid(), 4711);
  EXPECT_EQ(reinterpret_cast<int (*)()>(original_)(), getppid());
}

TEST_F(ImportTableTest, ASecondTimeKeepsTheOriginal) {
  EXPECT_TRUE(ImportTable(library_).redirect_all({redirection("getppid")}));
  void* const first = original_;
  EXPECT_TRUE(ImportTable(library_).redirect_all({redirection("getppid")}));
  EXPECT_EQ(original_, first);
}

TEST_F(ImportTableTest, RedirectsAllOrNone) {
  EXPECT_FALSE(
      ImportTable(library_).redirect_all({redirection("getppid"), redirection("not_imported")}));
  EXPECT_EQ(probe_(), getppid());
}

}  // namespace
}  // namespace tpuserve::runtime
