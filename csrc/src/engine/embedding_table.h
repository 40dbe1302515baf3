#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tpuserve/engine/model_spec.h"

namespace tpuserve::engine {

// The hidden states of all token ids as a file: [ids, hidden] in the element type of the model's
// states, without a header. For bmodels without embedding nets.
class EmbeddingTable {
 public:
  // Maps the file. Throws BmodelError when it cannot.
  explicit EmbeddingTable(std::string path);
  ~EmbeddingTable();
  EmbeddingTable(const EmbeddingTable&) = delete;
  EmbeddingTable& operator=(const EmbeddingTable&) = delete;

  // Rows for a model. Throws BmodelError unless the file holds whole rows for its vocabulary, and
  // no others where the model reads text alone.
  int rows_for(const ModelSpec& spec) const;

  // Rows ids[0] to ids[count - 1], of `row_bytes` each, which must be in the file.
  void copy(const std::int32_t* ids, std::size_t count, std::size_t row_bytes,
            std::uint8_t* target) const;

 private:
  std::string path_;
  std::size_t size_bytes_ = 0;
  const std::uint8_t* data_ = nullptr;
};

}  // namespace tpuserve::engine
