#include "flatbuffer.h"

#include <cstring>

namespace tpuserve::simchip {

template <typename Number>
Number FlatTable::at(std::int64_t position) const {
  const auto size = static_cast<std::int64_t>(bytes_->size());
  if (position < 0 || position > size - static_cast<std::int64_t>(sizeof(Number))) {
    throw FlatbufferError("offset " + std::to_string(position) + " is outside of " +
                          std::to_string(size) + " bytes");
  }
  Number value;
  std::memcpy(&value, bytes_->data() + position, sizeof value);
  return value;
}

FlatTable::FlatTable(const std::vector<char>& bytes, std::int64_t position)
    : bytes_(&bytes), position_(position), vtable_(0) {
  vtable_ = position - at<std::int32_t>(position);
}

FlatTable FlatTable::root(const std::vector<char>& bytes) {
  std::uint32_t offset = 0;
  if (bytes.size() < sizeof offset) throw FlatbufferError("no root");
  std::memcpy(&offset, bytes.data(), sizeof offset);
  return {bytes, offset};
}

std::int64_t FlatTable::field(int index) const {
  const std::int64_t entry = 4 + 2 * std::int64_t{index};
  if (entry + 2 > at<std::uint16_t>(vtable_)) return -1;
  const auto offset = at<std::uint16_t>(vtable_ + entry);
  return offset == 0 ? -1 : position_ + offset;
}

std::int64_t FlatTable::target(int index) const {
  const std::int64_t start = field(index);
  return start < 0 ? -1 : start + at<std::uint32_t>(start);
}

std::int64_t FlatTable::vector_length(std::int64_t start, std::size_t element_bytes) const {
  const std::int64_t count = at<std::uint32_t>(start);
  const auto bytes = count * static_cast<std::int64_t>(element_bytes);
  if (start + 4 + bytes > static_cast<std::int64_t>(bytes_->size())) {
    throw FlatbufferError("a vector of " + std::to_string(count) + " elements reaches too far");
  }
  return count;
}

std::uint32_t FlatTable::u32(int index) const {
  const std::int64_t start = field(index);
  return start < 0 ? 0 : at<std::uint32_t>(start);
}

std::uint64_t FlatTable::u64(int index) const {
  const std::int64_t start = field(index);
  return start < 0 ? 0 : at<std::uint64_t>(start);
}

std::string FlatTable::blob(int index) const {
  const std::int64_t start = target(index);
  if (start < 0) return {};
  const std::int64_t length = vector_length(start, 1);
  return {bytes_->data() + start + 4, static_cast<std::size_t>(length)};
}

std::uint64_t FlatTable::struct_u64(int index, int number) const {
  const std::int64_t start = field(index);
  return start < 0 ? 0 : at<std::uint64_t>(start + 8 * std::int64_t{number});
}

std::vector<std::uint64_t> FlatTable::u64s(int index) const {
  std::vector<std::uint64_t> result;
  const std::int64_t start = target(index);
  const std::int64_t count = start < 0 ? 0 : vector_length(start, 8);
  for (std::int64_t i = 0; i < count; ++i) result.push_back(at<std::uint64_t>(start + 4 + 8 * i));
  return result;
}

std::vector<FlatTable> FlatTable::tables(int index) const {
  std::vector<FlatTable> result;
  const std::int64_t start = target(index);
  const std::int64_t count = start < 0 ? 0 : vector_length(start, 4);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t element = start + 4 + 4 * i;
    result.push_back(FlatTable(*bytes_, element + at<std::uint32_t>(element)));
  }
  return result;
}

std::vector<FlatTable> FlatTable::table(int index) const {
  const std::int64_t start = target(index);
  if (start < 0) return {};
  return {FlatTable(*bytes_, start)};
}

}  // namespace tpuserve::simchip
