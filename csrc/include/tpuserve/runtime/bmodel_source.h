// What a bmodel is loaded from: a plain file, or an encrypted one that is decrypted on the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tpuserve::runtime {

// The blocks of weights of an encrypted bmodel. The file that the runtime opens holds in the place
// of each a token: 16 bytes `token_prefix`, then the block's index, 8 bytes, little-endian.
struct EncryptedWeights {
  // Writes a whole block to `target`. Throws std::exception. Any thread may call it.
  using Read = std::function<void(std::size_t block, std::uint8_t* target)>;

  std::string token_prefix;
  std::vector<std::uint64_t> block_bytes;
  Read read;
};

struct BmodelSource {
  // Implicit, so that a plain file is named by its path alone.
  BmodelSource(std::string file) : path(file), name(std::move(file)) {}
  BmodelSource(const char* file) : BmodelSource(std::string(file)) {}

  std::string path;                                 // of the file that the runtime opens
  std::string name;                                 // of the file that error texts name
  std::shared_ptr<const EncryptedWeights> weights;  // null for a plain file
};

// How many chips share each of its layers, as its description says: 1 where that cannot be read.
// Throws BmodelError for a file that is no bmodel.
std::size_t chips_of_bmodel(const BmodelSource& source);

}  // namespace tpuserve::runtime
