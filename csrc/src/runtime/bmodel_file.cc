#include "bmodel_file.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>

#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

// The first 64 bytes of a bmodel, little-endian. The rest are the net descriptions (a flatbuffer),
// then weights and instructions.
struct Header {
  std::uint32_t magic;
  std::uint32_t header_bytes;
  std::uint32_t description_bytes;
  std::uint32_t binary_bytes;
  std::array<std::uint32_t, 12> reserved;
};
static_assert(sizeof(Header) == 64);

constexpr std::uint32_t kMagic = 0xff55aaee;

}  // namespace

void check_bmodel_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw BmodelError(path + ": cannot be opened");
  const std::streamoff end = file.tellg();
  if (end < 0) throw BmodelError(path + ": cannot be read");
  const auto file_bytes = static_cast<std::uint64_t>(end);
  if (file_bytes < sizeof(Header)) {
    throw BmodelError(path + ": " + std::to_string(file_bytes) +
                      " bytes are too few: a bmodel header alone has 64");
  }
  Header header{};
  std::array<char, sizeof(Header)> bytes{};
  file.seekg(0);
  file.read(bytes.data(), bytes.size());
  if (!file) throw BmodelError(path + ": cannot be read");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) throw BmodelError(path + ": not a bmodel (wrong magic number)");
  const std::uint64_t declared =
      std::uint64_t{header.header_bytes} + header.description_bytes + header.binary_bytes;
  if (header.header_bytes < sizeof(Header) || header.description_bytes == 0) {
    throw BmodelError(path + ": header declares a header of " +
                      std::to_string(header.header_bytes) + " bytes and a description of " +
                      std::to_string(header.description_bytes));
  }
  if (declared > file_bytes) {
    throw BmodelError(path + ": truncated: the header declares " + std::to_string(declared) +
                      " bytes, the file has " + std::to_string(file_bytes));
  }
}

}  // namespace tpuserve::runtime
