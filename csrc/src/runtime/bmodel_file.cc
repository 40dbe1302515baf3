#include "bmodel_file.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "tpuserve/errors.h"
#include "tpuserve/runtime/bmodel_source.h"

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

template <typename Value>
bool read_at(const std::vector<char>& bytes, std::int64_t offset, Value& value) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  if (offset < 0 || offset > size - static_cast<std::int64_t>(sizeof value)) return false;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return true;
}

// Whether bytes begin as a flatbuffer: the offset of a root table, whose first word is the distance
// back to its vtable, which lists the offsets of the table's fields. The vendor's loader ends the
// process when it finds the description broken, so what is no flatbuffer must not get there.
bool begins_as_flatbuffer(const std::vector<char>& bytes) {
  std::uint32_t root = 0;
  std::int32_t back = 0;
  if (!read_at(bytes, 0, root) || !read_at(bytes, root, back)) return false;
  const std::int64_t vtable = std::int64_t{root} - back;
  std::uint16_t vtable_bytes = 0;
  std::uint16_t table_bytes = 0;
  if (!read_at(bytes, vtable, vtable_bytes) || !read_at(bytes, vtable + 2, table_bytes)) {
    return false;
  }
  if (vtable_bytes < 6 || vtable_bytes % 2 != 0 || table_bytes < 8) return false;
  for (std::int64_t entry = 4; entry < vtable_bytes; entry += 2) {
    std::uint16_t field = 0;
    if (!read_at(bytes, vtable + entry, field) || field >= table_bytes) return false;
  }
  std::uint8_t last = 0;
  return read_at(bytes, std::int64_t{root} + table_bytes - 1, last);
}

// A field of the root table, 32 bits; 0 where the file is silent.
std::uint32_t root_field(const std::vector<char>& bytes, int field) {
  std::uint32_t root = 0;
  std::int32_t back = 0;
  std::uint16_t vtable_bytes = 0;
  std::uint16_t offset = 0;
  std::uint32_t value = 0;
  if (!read_at(bytes, 0, root) || !read_at(bytes, root, back)) return 0;
  const std::int64_t vtable = std::int64_t{root} - back;
  const std::int64_t entry = 4 + 2 * field;
  if (!read_at(bytes, vtable, vtable_bytes) || entry + 2 > vtable_bytes ||
      !read_at(bytes, vtable + entry, offset) || offset == 0) {
    return 0;
  }
  return read_at(bytes, std::int64_t{root} + offset, value) ? value : 0;
}

std::vector<char> checked_description(const std::string& path) {
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
  std::vector<char> description(header.description_bytes);
  file.seekg(static_cast<std::streamoff>(header.header_bytes));
  file.read(description.data(), static_cast<std::streamsize>(description.size()));
  if (!file || !begins_as_flatbuffer(description)) {
    throw BmodelError(path + ": the description of the nets is damaged");
  }
  return description;
}

}  // namespace

void check_bmodel_file(const std::string& path) { checked_description(path); }

std::size_t chips_of_bmodel(const BmodelSource& source) {
  constexpr int kDevices = 7;
  return std::max<std::uint32_t>(1, root_field(checked_description(source.path), kDevices));
}

}  // namespace tpuserve::runtime
