// One open chip: memory, copies, synchronisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "tpuserve/runtime/library.h"
#include "tpuserve/runtime/tensor.h"

namespace tpuserve::runtime {

namespace abi {
struct Context;
}

// RAII over a bmlib handle, or several: chips that share each layer do everything together. All
// calls throw DeviceError when bmlib reports a failure.
class Chip {
 public:
  // Throws std::invalid_argument for an id that the library does not list, DeviceError when it
  // does not open. The library must outlive the chip. Several ids are emulated on one chip.
  static std::unique_ptr<Chip> open(const Library& library, const std::vector<int>& ids);
  static std::unique_ptr<Chip> open(const Library& library, int id);

  ~Chip();
  Chip(const Chip&) = delete;
  Chip& operator=(const Chip&) = delete;

  int id() const { return ids_.front(); }
  std::size_t count() const { return handles_.size(); }
  abi::Context* handle() const { return handles_.front(); }
  const std::vector<abi::Context*>& handles() const { return handles_; }
  const Symbols& symbols() const { return symbols_; }

  MemoryRef allocate(std::size_t bytes);
  void release(const MemoryRef& memory);

  // Host to chip: the first `bytes` of `target`, the same on all chips.
  void upload(const MemoryRef& target, const void* source, std::size_t bytes);
  // To the chip at `place` of several.
  void upload_to(std::size_t place, const MemoryRef& target, const void* source, std::size_t bytes);
  // Chip to host; waits for the launches before it.
  void download(void* target, const MemoryRef& source, std::size_t bytes, std::size_t place = 0);
  // Chip to chip-local memory; ranges must not overlap.
  void copy(const MemoryRef& target, const MemoryRef& source, std::size_t bytes);
  void zero(const MemoryRef& target);
  // Waits until everything that this thread has sent to the chip is done.
  void sync();
  // Launches tell that this thread has sent something; copies do so themselves.
  void mark_sender();

 private:
  explicit Chip(const Symbols& symbols) : symbols_(symbols) {}

  const Symbols& symbols_;
  std::vector<abi::Context*> handles_;
  std::vector<int> ids_;
  std::vector<std::thread::id> senders_;  // one or two: an engine is used by one thread
};

// RAII over a range of a chip's memory. The chip must outlive it.
class DeviceMemory {
 public:
  DeviceMemory(Chip& chip, std::size_t bytes) : chip_(&chip), ref_(chip.allocate(bytes)) {}
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  MemoryRef ref() const { return ref_; }

 private:
  Chip* chip_;
  MemoryRef ref_;
};

}  // namespace tpuserve::runtime
