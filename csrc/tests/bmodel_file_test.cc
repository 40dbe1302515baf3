#include "runtime/bmodel_file.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "test_support.h"
#include "tpuserve/errors.h"

namespace tpuserve::runtime {
namespace {

std::string little_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>((value >> shift) & 0xffU);
  return bytes;
}

std::string header(std::uint32_t magic, std::uint32_t header_bytes, std::uint32_t description_bytes,
                   std::uint32_t binary_bytes) {
  return little_endian(magic) + little_endian(header_bytes) + little_endian(description_bytes) +
         little_endian(binary_bytes) + std::string(48, '\0');
}

class BmodelFileTest : public testing::Test {
 protected:
  std::string refusal(const std::string& content) const {
    const std::string path = directory_.write("model.bmodel", content);
    return error_of<BmodelError>([&] { check_bmodel_file(path); });
  }

  TemporaryDirectory directory_;
};

constexpr std::uint32_t kMagic = 0xff55aaee;

// The least flatbuffer: a vtable with one field, and a table of 8 bytes.
std::string description() {
  const std::string vtable = {6, 0, 8, 0, 4, 0, 0, 0};  // its size, the table's, the field; padding
  return little_endian(12) + vtable + little_endian(8) + little_endian(0);
}

TEST_F(BmodelFileTest, AcceptsWhatIsWhole) {
  EXPECT_EQ(refusal(header(kMagic, 64, 20, 10) + description() + std::string(10, 'x')), "");
}

TEST_F(BmodelFileTest, RefusesADescriptionThatIsNoFlatbuffer) {
  const auto with = [this](const std::string& text) {
    return refusal(header(kMagic, 64, static_cast<std::uint32_t>(text.size()), 0) + text);
  };
  EXPECT_EQ(with(description()), "");
  const std::string whole = description();
  for (const std::size_t kept : {3U, 11U, 14U, 19U}) {
    EXPECT_PRED2(contains, with(whole.substr(0, kept)), "the description of the nets is damaged");
  }
  for (const char fill : {'\0', '\x7f', '\xff'}) {
    EXPECT_PRED2(contains, with(std::string(4096, fill)), "damaged") << int{fill};
  }
}

TEST_F(BmodelFileTest, NamesTheSizesOfATruncatedFile) {
  EXPECT_PRED2(contains, refusal(header(kMagic, 64, 10, 20) + std::string(29, 'x')),
               "truncated: the header declares 94 bytes, the file has 93");
}

TEST_F(BmodelFileTest, RefusesWhatIsNoBmodel) {
  EXPECT_PRED2(contains, refusal(std::string(100, 'x')), "not a bmodel");
  EXPECT_PRED2(contains, refusal(""), "0 bytes are too few");
  EXPECT_PRED2(contains, refusal(header(kMagic, 64, 10, 20).substr(0, 63)), "63 bytes are too few");
  EXPECT_PRED2(contains, refusal(header(kMagic, 64, 0, 0)), "a description of 0");
  EXPECT_PRED2(contains, refusal(header(kMagic, 8, 10, 0) + std::string(30, 'x')),
               "a header of 8 bytes");
}

TEST_F(BmodelFileTest, NamesAFileThatIsMissing) {
  EXPECT_PRED2(contains, error_of<BmodelError>([] { check_bmodel_file("/nowhere/x.bmodel"); }),
               "/nowhere/x.bmodel: cannot be opened");
}

}  // namespace
}  // namespace tpuserve::runtime
