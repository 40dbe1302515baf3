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
  return open(library, std::vector<int>{id});
}

std::unique_ptr<Chip> Chip::open(const Library& library, const std::vector<int>& ids) {
  std::unique_ptr<Chip> chip(new Chip(library.access(ids.front()).symbols));
  const KeepFloatingPointMode keep;
  for (const int id : ids) {
    // libbmlib of the emulator ends the process when it is asked for a chip that it does not have.
    const ChipAccess access = library.access(library.emulator() ? ids.front() : id);
    abi::Handle handle = nullptr;
    check(access.symbols.bm_dev_request(&handle, access.vendor_id), "bm_dev_request", id);
    chip->handles_.push_back(handle);
    chip->ids_.push_back(id);
  }
  return chip;
}

Chip::~Chip() {
  for (abi::Handle handle : handles_) symbols_.bm_dev_free(handle);
}

MemoryRef Chip::allocate(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::uint32_t>::max()) {
    // bm_malloc_device_byte takes 32 bits and would wrap.
    throw DeviceError("cannot allocate " + std::to_string(bytes) + " bytes on chip " +
                      std::to_string(id()) + ": one allocation holds at most 4294967295");
  }
  MemoryRef result;
  for (std::size_t place = 0; place < count(); ++place) {
    abi::Memory memory{};
    check(symbols_.bm_malloc_device_byte(handles_[place], &memory, static_cast<unsigned>(bytes)),
          "bm_malloc_device_byte", ids_[place]);
    if (place == 0) {
      result = from_abi(memory);
    } else {
      result.others[place - 1] = memory.address;
    }
  }
  return result;
}

void Chip::release(const MemoryRef& memory) {
  for (std::size_t place = 0; place < count(); ++place) {
    symbols_.bm_free_device(handles_[place], to_abi(memory, place));
  }
}

void Chip::upload(const MemoryRef& target, const void* source, std::size_t bytes) {
  for (std::size_t place = 0; place < count(); ++place) upload_to(place, target, source, bytes);
}

void Chip::upload_to(std::size_t place, const MemoryRef& target, const void* source,
                     std::size_t bytes) {
  // The ABI forgot the const.
  check(symbols_.bm_memcpy_s2d(handles_[place], to_abi(target.slice(0, bytes), place),
                               const_cast<void*>(source)),
        "bm_memcpy_s2d", ids_[place]);
}

void Chip::download(void* target, const MemoryRef& source, std::size_t bytes, std::size_t place) {
  // Launches of static nets are asynchronous and older drivers copy without waiting for them.
  sync();
  check(symbols_.bm_memcpy_d2s(handles_[place], target, to_abi(source.slice(0, bytes), place)),
        "bm_memcpy_d2s", ids_[place]);
}

void Chip::copy(const MemoryRef& target, const MemoryRef& source, std::size_t bytes) {
  mark_sender();
  for (std::size_t place = 0; place < count(); ++place) {
    // Not bm_memcpy_d2d: that one counts in double words.
    check(symbols_.bm_memcpy_d2d_byte(handles_[place], to_abi(target.slice(0, bytes), place), 0,
                                      to_abi(source.slice(0, bytes), place), 0, bytes),
          "bm_memcpy_d2d_byte", ids_[place]);
  }
}

void Chip::zero(const MemoryRef& target) {
  mark_sender();
  std::uint8_t value = 0;
  constexpr int kByteMode = 1;
  for (std::size_t place = 0; place < count(); ++place) {
    check(symbols_.bm_memset_device_ext(handles_[place], &value, kByteMode, to_abi(target, place)),
          "bm_memset_device_ext", ids_[place]);
  }
}

void Chip::mark_sender() {
  const std::thread::id self = std::this_thread::get_id();
  if (std::find(senders_.begin(), senders_.end(), self) == senders_.end()) senders_.push_back(self);
}

void Chip::sync() {
  // The emulator's libbmlib ends the process when a thread waits that has never sent anything.
  const std::thread::id self = std::this_thread::get_id();
  if (std::find(senders_.begin(), senders_.end(), self) == senders_.end()) return;
  for (std::size_t place = 0; place < count(); ++place) {
    check(symbols_.bm_thread_sync(handles_[place]), "bm_thread_sync", ids_[place]);
  }
}

DeviceMemory::~DeviceMemory() {
  if (chip_ != nullptr) chip_->release(ref_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : chip_(std::exchange(other.chip_, nullptr)), ref_(other.ref_) {}

}  // namespace tpuserve::runtime
