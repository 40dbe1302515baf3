#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <sstream>

namespace tpuserve::simchip {

namespace {

// Where the chip's DDR begins; low enough that a host address is never taken for one of the chip.
constexpr std::uint64_t kBase = 0x1'0000'0000;
constexpr std::uint64_t kPage = 4096;

std::uint64_t whole_pages(std::uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::string hex(std::uint64_t address) {
  std::ostringstream text;
  text << "0x" << std::hex << address;
  return text.str();
}

}  // namespace

Memory::Memory(std::uint64_t capacity_bytes)
    : capacity_bytes_(capacity_bytes), reserved_bytes_(whole_pages(2 * capacity_bytes)), next_(0) {
  void* mapped = mmap(nullptr, reserved_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  host_base_ = static_cast<unsigned char*>(mapped);
}

Memory::~Memory() { munmap(host_base_, reserved_bytes_); }

std::uint64_t Memory::find_gap(std::uint64_t from, std::uint64_t bytes) const {
  std::uint64_t start = from;
  auto next = allocations_.lower_bound(kBase + from);
  if (next != allocations_.begin()) {
    const auto before = std::prev(next);
    start = std::max(start, whole_pages(before->first - kBase + before->second) + kPage);
  }
  for (; next != allocations_.end(); ++next) {
    if (start + bytes + kPage <= next->first - kBase) break;
    start = whole_pages(next->first - kBase + next->second) + kPage;
  }
  return start + bytes <= reserved_bytes_ ? start : reserved_bytes_;
}

std::uint64_t Memory::allocate(std::uint64_t bytes, bool host) {
  constexpr std::uint64_t kPoisoned = 1U << 20;
  if (bytes > capacity_bytes_ - std::min(used_bytes_, capacity_bytes_)) return 0;
  std::uint64_t offset = find_gap(next_, bytes);
  if (offset == reserved_bytes_) offset = find_gap(0, bytes);
  if (offset == reserved_bytes_) return 0;
  next_ = offset + whole_pages(bytes) + kPage;
  const std::uint64_t address = kBase + offset;
  allocations_[address] = bytes;
  regions_[address] = {address, bytes, host};
  used_bytes_ += bytes;
  if (host) {
    ++host_allocations_;
    host_bytes_ += bytes;
  }
  std::memset(host_base_ + offset, 0xff, std::min(bytes, kPoisoned));
  return address;
}

void Memory::release(std::uint64_t address) {
  const std::uint64_t bytes = allocations_.at(address);
  if (regions_.at(address).host) {
    --host_allocations_;
    host_bytes_ -= bytes;
  }
  regions_.erase(regions_.lower_bound(address), regions_.lower_bound(address + bytes));
  allocations_.erase(address);
  used_bytes_ -= bytes;
  // Gives the pages back to the machine.
  madvise(host_base_ + (address - kBase), whole_pages(bytes), MADV_DONTNEED);
}

void Memory::split(std::uint64_t address) {
  const auto found = regions_.find(address);
  if (found != regions_.end()) return;
  Region& before = std::prev(regions_.upper_bound(address))->second;
  const Region after{address, before.end() - address, before.host};
  before.bytes = address - before.address;
  regions_[address] = after;
}

const Region* Memory::find(std::uint64_t address) const {
  const auto above = regions_.upper_bound(address);
  if (above == regions_.begin()) return nullptr;
  const Region& region = std::prev(above)->second;
  return address < region.end() ? &region : nullptr;
}

std::string Memory::problem(std::uint64_t address, std::uint64_t bytes) const {
  const Region* region = find(address);
  if (region == nullptr) return "address " + hex(address) + " is not allocated";
  if (bytes <= region->end() - address) return "";
  return std::to_string(bytes) + " bytes at " + hex(address) + " reach " +
         std::to_string(bytes - (region->end() - address)) + " past the end of their " +
         (region->host ? "allocation" : "tensor");
}

unsigned char* Memory::at(std::uint64_t address) const { return host_base_ + (address - kBase); }

void Memory::zero(std::uint64_t address, std::uint64_t bytes) {
  const std::uint64_t first = whole_pages(address - kBase);
  const std::uint64_t last = (address - kBase + bytes) / kPage * kPage;
  if (last <= first) {
    std::memset(at(address), 0, bytes);
    return;
  }
  // Dropped pages read as zeros and take no memory of the machine: whole models' KV are zeroed.
  std::memset(at(address), 0, kBase + first - address);
  madvise(host_base_ + first, last - first, MADV_DONTNEED);
  std::memset(host_base_ + last, 0, address + bytes - (kBase + last));
}

}  // namespace tpuserve::simchip
