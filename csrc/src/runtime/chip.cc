#include "tpuserve/runtime/chip.h"

#include <algorithm>
#include <cfenv>
#include <limits>
#include <string>
#include <utility>

#include "convert.h"
#include "status.h"
#include "symbols.h"
#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

// Opening the emulator's chip sets the calling thread's floating point unit to flush subnormals to
// zero, for good: arithmetic of the whole program would change. Puts it back.
class KeepFloatingPointMode {
 public:
  KeepFloatingPointMode() { std::fegetenv(&mode_); }
  ~KeepFloatingPointMode() { std::fesetenv(&mode_); }
  KeepFloatingPointMode(const KeepFloatingPointMode&) = delete;
  KeepFloatingPointMode& operator=(const KeepFloatingPointMode&) = delete;

 private:
  std::fenv_t mode_{};
};

}  // namespace

std::unique_ptr<Chip> Chip::open(const Library& library, int id) {
  // libbmlib of the emulator ends the process when it is asked for a chip that it does not have.
  const ChipAccess access = library.access(id);
  const KeepFloatingPointMode keep;
  abi::Handle handle = nullptr;
  check(access.symbols.bm_dev_request(&handle, access.vendor_id), "bm_dev_request", id);
  return std::unique_ptr<Chip>(new Chip(access.symbols, handle, id));
}

Chip::~Chip() { symbols_.bm_dev_free(handle_); }

MemoryRef Chip::allocate(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::uint32_t>::max()) {
    // bm_malloc_device_byte takes 32 bits and would wrap.
    throw DeviceError("cannot allocate " + std::to_string(bytes) + " bytes on chip " +
                      std::to_string(id_) + ": one allocation holds at most 4294967295");
  }
  abi::Memory memory{};
  check(symbols_.bm_malloc_device_byte(handle_, &memory, static_cast<unsigned>(bytes)),
        "bm_malloc_device_byte", id_);
  return from_abi(memory);
}

void Chip::release(MemoryRef memory) { symbols_.bm_free_device(handle_, to_abi(memory)); }

void Chip::upload(MemoryRef target, const void* source, std::size_t bytes) {
  // The ABI forgot the const.
  check(symbols_.bm_memcpy_s2d(handle_, to_abi(target.slice(0, bytes)), const_cast<void*>(source)),
        "bm_memcpy_s2d", id_);
}

void Chip::download(void* target, MemoryRef source, std::size_t bytes) {
  // Launches of static nets are asynchronous and older drivers copy without waiting for them.
  sync();
  check(symbols_.bm_memcpy_d2s(handle_, target, to_abi(source.slice(0, bytes))), "bm_memcpy_d2s",
        id_);
}

void Chip::copy(MemoryRef target, MemoryRef source, std::size_t bytes) {
  mark_sender();
  // Not bm_memcpy_d2d: that one counts in double words.
  check(symbols_.bm_memcpy_d2d_byte(handle_, to_abi(target.slice(0, bytes)), 0,
                                    to_abi(source.slice(0, bytes)), 0, bytes),
        "bm_memcpy_d2d_byte", id_);
}

void Chip::zero(MemoryRef target) {
  mark_sender();
  std::uint8_t value = 0;
  constexpr int kByteMode = 1;
  check(symbols_.bm_memset_device_ext(handle_, &value, kByteMode, to_abi(target)),
        "bm_memset_device_ext", id_);
}

void Chip::mark_sender() {
  const std::thread::id self = std::this_thread::get_id();
  if (std::find(senders_.begin(), senders_.end(), self) == senders_.end()) senders_.push_back(self);
}

void Chip::sync() {
  // The emulator's libbmlib ends the process when a thread waits that has never sent anything.
  const std::thread::id self = std::this_thread::get_id();
  if (std::find(senders_.begin(), senders_.end(), self) == senders_.end()) return;
  check(symbols_.bm_thread_sync(handle_), "bm_thread_sync", id_);
}

DeviceMemory::~DeviceMemory() {
  if (chip_ != nullptr) chip_->release(ref_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : chip_(std::exchange(other.chip_, nullptr)), ref_(other.ref_) {}

}  // namespace tpuserve::runtime
