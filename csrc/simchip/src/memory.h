// The memory of one simulated chip: a range of addresses, mapped lazily, with a map of what is
// allocated where.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace tpuserve::simchip {

// A range that accesses may not cross the ends of. An allocation by the host is one region; the
// memory of a net has one per tensor.
struct Region {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  bool host = false;  // allocated, and to be freed, through bm_malloc_device_byte

  std::uint64_t end() const { return address + bytes; }
};

class Memory {
 public:
  explicit Memory(std::uint64_t capacity_bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::uint64_t capacity_bytes() const { return capacity_bytes_; }
  std::uint64_t used_bytes() const { return used_bytes_; }
  std::uint64_t host_allocations() const { return host_allocations_; }
  std::uint64_t host_bytes() const { return host_bytes_; }

  // Returns 0 when it does not fit. New memory is NaN in every float type, up to 1 MiB of it.
  std::uint64_t allocate(std::uint64_t bytes, bool host);
  // `address` is what `allocate` returned.
  void release(std::uint64_t address);
  // Divides an allocation: from `address` on it is another region.
  void split(std::uint64_t address);

  // The region that holds the address; null when none does.
  const Region* find(std::uint64_t address) const;
  // What is wrong with the range; empty when it lies in one region.
  std::string problem(std::uint64_t address, std::uint64_t bytes) const;
  // The range must have no problem.
  unsigned char* at(std::uint64_t address) const;
  void zero(std::uint64_t address, std::uint64_t bytes);

 private:
  std::uint64_t find_gap(std::uint64_t from, std::uint64_t bytes) const;

  std::uint64_t capacity_bytes_;
  std::uint64_t reserved_bytes_;  // of addresses: more, so that freed ones are not used again soon
  unsigned char* host_base_;
  std::uint64_t next_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t host_allocations_ = 0;
  std::uint64_t host_bytes_ = 0;
  std::map<std::uint64_t, Region> regions_;
  std::map<std::uint64_t, std::uint64_t> allocations_;  // address to bytes
};

}  // namespace tpuserve::simchip
