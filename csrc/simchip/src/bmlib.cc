// The functions of libbmlib that tpuserve calls: chips, memory, copies.
#include <cstring>
#include <string>
#include <thread>

#include "exported.h"
#include "world.h"

namespace {

using tpuserve::simchip::Chip;
using tpuserve::simchip::Clock;
using tpuserve::simchip::Memory;
using tpuserve::simchip::Profile;
using tpuserve::simchip::Region;
using tpuserve::simchip::World;
namespace abi = tpuserve::runtime::abi;

// The chip behind a handle while nobody else uses the world; null, with `status`, if it cannot be
// used.
class Call {
 public:
  // A chip in status Fault can be used only to give things back.
  Call(abi::Handle handle, const char* name, bool even_faulty = false)
      : name_(name), lock_(World::get().mutex()), chip_(World::get().chip(handle, name)) {
    if (chip_ == nullptr) status_ = abi::kBadParameter;
    if (chip_ != nullptr && chip_->faulty && !even_faulty) {
      status_ = abi::kDeviceNotReady;
      chip_ = nullptr;
    }
  }

  explicit operator bool() const { return chip_ != nullptr; }
  Chip* operator->() const { return chip_; }
  abi::Status status() const { return status_; }
  void unlock() { lock_.unlock(); }

  abi::Status broken(const std::string& rule, const std::string& text) const {
    World::get().rules().broken(rule, std::string(name_) + ": " + text);
    return abi::kBadParameter;
  }

  // Checks a range of device memory; kSuccess, or kBadParameter with a broken rule.
  abi::Status check(std::uint64_t address, std::uint64_t bytes) const {
    const std::string problem = chip_->memory.problem(address, bytes);
    return problem.empty() ? abi::kSuccess : broken("bad-address", problem);
  }

 private:
  const char* name_;
  std::unique_lock<std::mutex> lock_;
  Chip* chip_;
  abi::Status status_ = abi::kSuccess;
};

int mebibytes(std::uint64_t bytes) { return static_cast<int>(bytes >> 20); }

template <typename Value, typename Target>
abi::Status reading(abi::Handle handle, const char* name, Value Profile::* value, Target* target) {
  const Call call(handle, name);
  if (!call) return call.status();
  const Value& known = World::get().profile()->*value;
  if (!known.has_value()) return abi::kNotSupported;
  *target = *known;
  return abi::kSuccess;
}

}  // namespace

SIMCHIP_EXPORT abi::Status bm_dev_getcount(int* count) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  const Profile* profile = world.profile();
  if (profile == nullptr) return abi::kFailure;
  *count = profile->chips;
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_dev_request(abi::Handle* handle, int chip) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  *handle = world.open(chip);
  return *handle == nullptr ? abi::kDeviceNotReady : abi::kSuccess;
}

SIMCHIP_EXPORT void bm_dev_free(abi::Handle handle) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  world.close(handle);
}

SIMCHIP_EXPORT abi::Status bm_malloc_device_byte(abi::Handle handle, abi::Memory* memory,
                                                 unsigned size) {
  const Call call(handle, "bm_malloc_device_byte");
  if (!call) return call.status();
  if (size == 0) return call.broken("empty-allocation", "0 bytes are asked for");
  const std::uint64_t address = call->memory.allocate(size, /*host=*/true);
  if (address == 0) return abi::kNoMemory;
  World::get().allocated(handle, address);
  *memory = {};
  memory->address = address;
  memory->size = size;
  return abi::kSuccess;
}

SIMCHIP_EXPORT void bm_free_device(abi::Handle handle, abi::Memory memory) {
  const Call call(handle, "bm_free_device", /*even_faulty=*/true);
  if (!call) return;
  const Region* region = call->memory.find(memory.address);
  if (region == nullptr) {
    call.broken("double-free", "the address is not allocated (any more)");
  } else if (!region->host || region->address != memory.address) {
    call.broken("bad-free", "the address is not that of an allocation");
  } else {
    if (call->in_use(region->address, region->bytes, /*writes_only=*/false)) {
      call.broken("free-in-use", "nobody has waited for the launches that use this memory");
    }
    World::get().freed(memory.address);
    call->memory.release(memory.address);
  }
}

SIMCHIP_EXPORT abi::Status bm_memcpy_s2d(abi::Handle handle, abi::Memory target, void* source) {
  const Call call(handle, "bm_memcpy_s2d");
  if (!call) return call.status();
  if (call.check(target.address, target.size) != abi::kSuccess) return abi::kBadParameter;
  if (call->in_use(target.address, target.size, /*writes_only=*/false)) {
    return call.broken("copy-without-sync",
                       "a launch that nobody has waited for uses the memory that is written");
  }
  std::memcpy(call->memory.at(target.address), source, target.size);
  call->queue_copy(target.size);
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_memcpy_d2s(abi::Handle handle, void* target, abi::Memory source) {
  const Call call(handle, "bm_memcpy_d2s");
  if (!call) return call.status();
  if (call.check(source.address, source.size) != abi::kSuccess) return abi::kBadParameter;
  if (call->in_use(source.address, source.size, /*writes_only=*/true)) {
    return call.broken("read-without-sync",
                       "nobody has waited for the launch that writes this memory");
  }
  std::memcpy(target, call->memory.at(source.address), source.size);
  call->queue_copy(source.size);
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_memcpy_d2d_byte(abi::Handle handle, abi::Memory target,
                                              std::size_t target_offset, abi::Memory source,
                                              std::size_t source_offset, std::size_t size) {
  const Call call(handle, "bm_memcpy_d2d_byte");
  if (!call) return call.status();
  const std::uint64_t to = target.address + target_offset;
  const std::uint64_t from = source.address + source_offset;
  if (call.check(to, size) != abi::kSuccess || call.check(from, size) != abi::kSuccess) {
    return abi::kBadParameter;
  }
  if (target_offset + size > target.size || source_offset + size > source.size) {
    return call.broken("past-the-end", "more bytes than the descriptors have");
  }
  if (to < from + size && from < to + size) return call.broken("overlap", "the ranges overlap");
  // The chip does this itself, after the launches before it.
  std::memcpy(call->memory.at(to), call->memory.at(from), size);
  call->queue_copy(0);
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_memset_device_ext(abi::Handle handle, void* value, int mode,
                                                abi::Memory memory) {
  const Call call(handle, "bm_memset_device_ext");
  if (!call) return call.status();
  constexpr int kMostBytes = 4;
  if (mode < 1 || mode > kMostBytes) return call.broken("bad-mode", "a value has 1 to 4 bytes");
  if (call.check(memory.address, memory.size) != abi::kSuccess) return abi::kBadParameter;
  const auto* bytes = static_cast<const unsigned char*>(value);
  const auto step = static_cast<unsigned>(mode);
  bool zero = true;
  for (unsigned i = 0; i < step; ++i) zero = zero && bytes[i] == 0;
  if (zero) {
    call->memory.zero(memory.address, memory.size);
  } else {
    unsigned char* to = call->memory.at(memory.address);
    for (std::uint64_t i = 0; i < memory.size; ++i) to[i] = bytes[i % step];
  }
  call->queue_copy(0);
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_thread_sync(abi::Handle handle) {
  Call call(handle, "bm_thread_sync");
  if (!call) return call.status();
  const Chip::Wait wait = call->begin_wait();
  call.unlock();
  if (wait.hangs) {
    const std::chrono::duration<double> limit(wait.hang_seconds);
    do {
      std::this_thread::sleep_for(wait.hang_seconds > 0 ? limit : std::chrono::hours(1));
    } while (wait.hang_seconds <= 0);
    return abi::kTimeout;
  }
  if (wait.until > Clock::now()) std::this_thread::sleep_until(wait.until);
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Memory bm_mem_from_device(unsigned long long address, unsigned size) {
  abi::Memory memory{};
  memory.address = address;
  memory.size = size;
  return memory;
}

SIMCHIP_EXPORT abi::Status bm_get_stat(abi::Handle handle, abi::DeviceStat* stat) {
  const Call call(handle, "bm_get_stat");
  if (!call) return call.status();
  const Memory& memory = call->memory;
  *stat = {};
  stat->total_mib = mebibytes(memory.capacity_bytes());
  stat->used_mib = mebibytes(memory.used_bytes());
  stat->utilisation_percent = call->utilisation_percent();
  stat->heap_count = 1;
  stat->heaps[0] = {static_cast<unsigned>(stat->total_mib),
                    static_cast<unsigned>(stat->total_mib - stat->used_mib),
                    static_cast<unsigned>(stat->used_mib)};
  return abi::kSuccess;
}

SIMCHIP_EXPORT abi::Status bm_get_chip_temp(abi::Handle handle, unsigned* celsius) {
  return reading(handle, "bm_get_chip_temp", &Profile::temperature_celsius, celsius);
}

SIMCHIP_EXPORT abi::Status bm_get_tpu_power(abi::Handle handle, float* watts) {
  return reading(handle, "bm_get_tpu_power", &Profile::power_watts, watts);
}

SIMCHIP_EXPORT abi::Status bm_get_clk_tpu_freq(abi::Handle handle, int* megahertz) {
  return reading(handle, "bm_get_clk_tpu_freq", &Profile::clock_mhz, megahertz);
}
