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

// RAII over a bmlib handle. All calls throw DeviceError when bmlib reports a failure.
class Chip {
 public:
  // Throws std::invalid_argument for an id that the library does not list, DeviceError when it
  // does not open. The library must outlive the chip.
  static std::unique_ptr<Chip> open(const Library& library, int id);

  ~Chip();
  Chip(const Chip&) = delete;
  Chip& operator=(const Chip&) = delete;

  int id() const { return id_; }
  abi::Context* handle() const { return handle_; }
  const Symbols& symbols() const { return symbols_; }

  MemoryRef allocate(std::size_t bytes);
  void release(MemoryRef memory);

  // Host to chip: the first `bytes` of `target`.
  void upload(MemoryRef target, const void* source, std::size_t bytes);
  // Chip to host; waits for the launches before it.
  void download(void* target, MemoryRef source, std::size_t bytes);
  // Chip to chip-local memory; ranges must not overlap.
  void copy(MemoryRef target, MemoryRef source, std::size_t bytes);
  void zero(MemoryRef target);
  // Waits until everything that this thread has sent to the chip is done.
  void sync();
  // Launches tell that this thread has sent something; copies do so themselves.
  void mark_sender();

 private:
  Chip(const Symbols& symbols, abi::Context* handle, int id)
      : symbols_(symbols), handle_(handle), id_(id) {}

  const Symbols& symbols_;
  abi::Context* handle_;
  int id_;
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
