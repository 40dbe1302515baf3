// All that the functions of the ABI share in one process: the chips, who opened them, the runtimes.
// Handles and runtimes are numbers, never addresses, so that one that is wrong can be told.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "chip.h"
#include "profile.h"
#include "rules.h"
#include "runtime.h"

namespace tpuserve::simchip {

class World {
 public:
  // Never destroyed: the vendor's users call until the very end of a process.
  static World& get();

  std::mutex& mutex() { return mutex_; }
  Rules& rules() { return rules_; }

  // The members below are for who holds the mutex.

  // Null when there is no profile or it is wrong, which is told on standard error.
  const Profile* profile();
  abi::Handle open(int chip);  // null for a chip that is not there
  void close(abi::Handle handle);
  // Null for an unknown handle, which breaks a rule; `call` is who was given it.
  Chip* chip(abi::Handle handle, const char* call);

  void allocated(abi::Handle handle, std::uint64_t address) { owner_[address] = handle; }
  void freed(std::uint64_t address) { owner_.erase(address); }

  void* create_runtime(abi::Handle handle);
  void destroy_runtime(void* runtime);
  Runtime* runtime(void* runtime, const char* call);

  std::uint64_t counter(const std::string& name) const;
  // What was not given back, told on standard error; returns how many kinds of it.
  int report_leaks();

 private:
  struct Open {
    std::size_t chip;
  };
  struct RuntimeOf {
    abi::Handle handle;
    std::unique_ptr<Runtime> runtime;
  };

  World();
  std::uintptr_t next_number();

  std::mutex mutex_;
  Rules rules_;
  bool profile_read_ = false;
  std::optional<Profile> profile_;
  std::vector<std::unique_ptr<Chip>> chips_;
  std::vector<SharedMemory> shared_;
  std::map<abi::Handle, Open> open_;
  std::map<void*, RuntimeOf> runtimes_;
  std::map<std::uint64_t, abi::Handle> owner_;  // of an allocation by address
  std::uintptr_t last_number_;
  std::uint64_t foreign_kv_bytes_ = 0;  // of runtimes that are gone
};

// One thread's stay in a runtime. Another's at the same time breaks a rule.
class RuntimeEntry {
 public:
  RuntimeEntry(void* runtime, const char* call);
  ~RuntimeEntry();
  RuntimeEntry(const RuntimeEntry&) = delete;
  RuntimeEntry& operator=(const RuntimeEntry&) = delete;

 private:
  void* runtime_;
};

}  // namespace tpuserve::simchip
