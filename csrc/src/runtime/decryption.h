#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "tpuserve/runtime/bmodel_source.h"

namespace tpuserve::runtime {

using Allocate = void*(std::size_t);

// While it lives, `decrypt` knows the tokens of these weights.
class Decryption {
 public:
  // On the thread that loads. `allocate_for_runtime`: malloc of the C library that the runtime
  // frees results with.
  Decryption(const EncryptedWeights& weights, Allocate* allocate_for_runtime);
  ~Decryption();
  Decryption(const Decryption&) = delete;
  Decryption& operator=(const Decryption&) = delete;

  // Why a block could not be decrypted: the first failure's text, empty when there was none. The
  // chip then holds zeros in its place.
  std::string failure() const;

  // The function that the runtime calls for the header, the description and each block of weights.
  // It returns what it gets where that is no token. The result is for the caller to free.
  static std::uint8_t* decrypt(const std::uint8_t* input, std::uint64_t input_bytes,
                               std::uint64_t* output_bytes);

 private:
  std::uint8_t* read(std::uint64_t block, std::uint64_t* output_bytes);
  void fail(const std::string& reason);

  const EncryptedWeights& weights_;
  mutable std::mutex mutex_;
  std::string failure_;
};

}  // namespace tpuserve::runtime
