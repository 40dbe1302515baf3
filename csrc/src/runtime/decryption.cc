#include "decryption.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>

namespace tpuserve::runtime {

namespace {

constexpr std::size_t kPrefixBytes = 16;
constexpr std::size_t kTokenBytes = kPrefixBytes + sizeof(std::uint64_t);

// The runtime's callback carries no pointer of ours, and the thread that it comes on is not
// promised: the token tells whose it is.
struct Registry {
  std::mutex mutex;
  std::map<std::string, Decryption*> by_prefix;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

// Of the C library that frees what the runtime is given, on a thread that loads.
thread_local Allocate* allocate = std::malloc;

std::uint8_t* copy(const std::uint8_t* input, std::uint64_t bytes, std::uint64_t* output_bytes) {
  auto* result = static_cast<std::uint8_t*>(allocate(bytes > 0 ? bytes : 1));
  *output_bytes = result != nullptr ? bytes : 0;
  if (result != nullptr) std::memcpy(result, input, bytes);
  return result;
}

}  // namespace

Decryption::Decryption(const EncryptedWeights& weights, Allocate* allocate_for_runtime)
    : weights_(weights) {
  if (weights.token_prefix.size() != kPrefixBytes) {
    throw std::invalid_argument("token_prefix has " + std::to_string(weights.token_prefix.size()) +
                                " bytes: expected " + std::to_string(kPrefixBytes));
  }
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (!all.by_prefix.emplace(weights.token_prefix, this).second) {
    throw std::invalid_argument("these weights are being loaded already");
  }
  allocate = allocate_for_runtime;
}

Decryption::~Decryption() {
  allocate = std::malloc;
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.by_prefix.erase(weights_.token_prefix);
}

std::string Decryption::failure() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

std::uint8_t* Decryption::decrypt(const std::uint8_t* input, std::uint64_t input_bytes,
                                  std::uint64_t* output_bytes) {
  if (input_bytes != kTokenBytes) return copy(input, input_bytes, output_bytes);
  Decryption* owner = nullptr;
  {
    Registry& all = registry();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found =
        all.by_prefix.find(std::string(reinterpret_cast<const char*>(input), kPrefixBytes));
    if (found != all.by_prefix.end()) owner = found->second;
  }
  if (owner == nullptr) return copy(input, input_bytes, output_bytes);
  std::uint64_t block = 0;
  std::memcpy(&block, input + kPrefixBytes, sizeof block);
  return owner->read(block, output_bytes);
}

// The runtime takes a wrong size or nothing at all for a broken file and may end the process. A
// failure therefore gives zeros, and whoever loads asks for `failure` afterwards.
std::uint8_t* Decryption::read(std::uint64_t block, std::uint64_t* output_bytes) {
  *output_bytes = 0;
  if (block >= weights_.block_bytes.size()) {
    fail("there is no block " + std::to_string(block));
    return nullptr;
  }
  const std::uint64_t bytes = weights_.block_bytes[block];
  auto* result = static_cast<std::uint8_t*>(allocate(bytes));
  if (result == nullptr) {
    fail("no memory for " + std::to_string(bytes) + " bytes");
    return nullptr;
  }
  std::memset(result, 0, bytes);
  try {
    weights_.read(block, result);
  } catch (const std::exception& error) {
    fail(error.what());
    std::memset(result, 0, bytes);
  }
  *output_bytes = bytes;
  return result;
}

void Decryption::fail(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure_.empty()) failure_ = reason;
}

}  // namespace tpuserve::runtime
