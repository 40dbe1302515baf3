#include "embedding_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "tpuserve/errors.h"

namespace tpuserve::engine {

namespace {

[[noreturn]] void fail(const std::string& path) {
  throw BmodelError(path + ": " + std::strerror(errno));
}

class File {
 public:
  explicit File(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail(path);
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

EmbeddingTable::EmbeddingTable(std::string path) : path_(std::move(path)) {
  const File file(path_);
  struct stat status{};
  if (fstat(file.descriptor(), &status) != 0) fail(path_);
  size_bytes_ = static_cast<std::size_t>(status.st_size);
  if (size_bytes_ == 0) throw BmodelError(path_ + " is empty");
  void* mapping = mmap(nullptr, size_bytes_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (mapping == MAP_FAILED) fail(path_);
  data_ = static_cast<const std::uint8_t*>(mapping);
}

EmbeddingTable::~EmbeddingTable() { munmap(const_cast<std::uint8_t*>(data_), size_bytes_); }

int EmbeddingTable::rows_for(const ModelSpec& spec) const {
  const std::size_t row_bytes = static_cast<std::size_t>(spec.hidden_size) * size_bytes(spec.dtype);
  const std::size_t rows = size_bytes_ / row_bytes;
  const auto vocab = static_cast<std::size_t>(spec.vocab_size);
  // An argmax head does not tell the vocabulary, and image tokens have rows but no logits.
  const bool exact = vocab > 0 && !spec.vision.has_value();
  const bool whole = rows * row_bytes == size_bytes_ &&
                     rows <= static_cast<std::size_t>(std::numeric_limits<int>::max());
  if (whole && rows >= vocab && (rows == vocab || !exact)) return static_cast<int>(rows);
  throw BmodelError(path_ + " has " + std::to_string(size_bytes_) + " bytes: expected " +
                    (vocab == 0 ? "" : std::to_string(vocab) + (exact ? " " : " or more ")) +
                    "rows of " + std::to_string(row_bytes) + " bytes (" +
                    std::to_string(spec.hidden_size) + " " + name(spec.dtype) + ")");
}

void EmbeddingTable::copy(const std::int32_t* ids, std::size_t count, std::size_t row_bytes,
                          std::uint8_t* target) const {
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t row = static_cast<std::size_t>(ids[i]) * row_bytes;
    std::memcpy(target + i * row_bytes, data_ + row, row_bytes);
  }
}

}  // namespace tpuserve::engine
