#include "world.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace tpuserve::simchip {

namespace {

constexpr const char* kProfileVariable = "TPUSERVE_SIMCHIP_PROFILE";
constexpr const char* kExitVariable = "TPUSERVE_SIMCHIP_EXIT_STATUS";

// With a status in the environment, a process that broke a rule or kept something ends with it.
void check_at_exit() {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  const int leaks = world.report_leaks();
  if (leaks == 0 && world.rules().count() == 0) return;
  const char* wanted = std::getenv(kExitVariable);
  const int status = wanted == nullptr ? 0 : std::atoi(wanted);
  if (status == 0) return;
  std::fflush(nullptr);
  _exit(status);
}

struct Entries {
  std::mutex mutex;
  std::multimap<void*, std::thread::id> inside;
};

Entries& entries() {
  static Entries* const kEntries = new Entries;
  return *kEntries;
}

}  // namespace

World& World::get() {
  static World* const kWorld = new World;
  return *kWorld;
}

World::World() : last_number_(0x51c0'0000) { std::atexit(check_at_exit); }

std::uintptr_t World::next_number() {
  constexpr std::uintptr_t kStep = 16;  // as aligned as an address
  return last_number_ += kStep;
}

const Profile* World::profile() {
  if (profile_read_) return profile_.has_value() ? &*profile_ : nullptr;
  profile_read_ = true;
  const char* path = std::getenv(kProfileVariable);
  try {
    if (path == nullptr) throw ProfileError(std::string(kProfileVariable) + " is not set");
    profile_ = load_profile(path);
    for (int i = 0; i < profile_->chips; ++i) chips_.push_back(std::make_unique<Chip>(*profile_));
    shared_.resize(chips_.size());
  } catch (const std::exception& error) {
    profile_.reset();
    std::fprintf(stderr, "simchip: no chips: %s\n", error.what());
    return nullptr;
  }
  return &*profile_;
}

abi::Handle World::open(int chip) {
  if (profile() == nullptr || chip < 0 || chip >= profile_->chips) return nullptr;
  const auto handle = reinterpret_cast<abi::Handle>(next_number());
  open_[handle] = {static_cast<std::size_t>(chip)};
  return handle;
}

Chip* World::chip(abi::Handle handle, const char* call) {
  const auto found = open_.find(handle);
  if (found != open_.end()) return chips_[found->second.chip].get();
  rules_.broken("unknown-handle", std::string(call) + ": the handle is not open");
  return nullptr;
}

void World::close(abi::Handle handle) {
  Chip* const used = chip(handle, "bm_dev_free");
  if (used == nullptr) return;
  for (const auto& [key, held] : runtimes_) {
    if (held.handle == handle) {
      rules_.broken("handle-in-use", "bm_dev_free: a runtime of this handle is still there");
      return;
    }
  }
  std::uint64_t kept = 0;
  for (auto next = owner_.begin(); next != owner_.end();) {
    if (next->second != handle) {
      ++next;
      continue;
    }
    ++kept;
    used->memory.release(next->first);
    next = owner_.erase(next);
  }
  if (kept > 0) {
    rules_.broken("leak", "bm_dev_free: " + std::to_string(kept) +
                              " allocations of this handle were not freed");
  }
  open_.erase(handle);
}

void* World::create_runtime(abi::Handle handle) {
  Chip* const used = chip(handle, "bmrt_create");
  if (used == nullptr || used->faulty) return nullptr;
  auto* const number = reinterpret_cast<void*>(next_number());
  SharedMemory& shared = shared_[open_.at(handle).chip];
  runtimes_[number] = {handle, std::make_unique<Runtime>(*used, shared, rules_, *profile_)};
  return number;
}

void World::destroy_runtime(void* number) {
  Runtime* const gone = runtime(number, "bmrt_destroy");
  if (gone == nullptr) return;
  if (gone->in_use()) {
    rules_.broken("runtime-in-use", "bmrt_destroy: nobody has waited for its launches");
  }
  foreign_kv_bytes_ += gone->foreign_kv_bytes();
  runtimes_.erase(number);
}

Runtime* World::runtime(void* number, const char* call) {
  const auto found = runtimes_.find(number);
  if (found != runtimes_.end()) return found->second.runtime.get();
  rules_.broken("unknown-runtime", std::string(call) + ": the runtime is not there");
  return nullptr;
}

std::uint64_t World::counter(const std::string& name) const {
  if (name == "broken_rules") return rules_.count();
  if (name == "open_handles") return open_.size();
  if (name == "runtimes") return runtimes_.size();
  std::uint64_t launches = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t allocations = 0;
  std::uint64_t allocated_bytes = 0;
  std::uint64_t kv_bytes = 0;
  for (const std::unique_ptr<Chip>& chip : chips_) {
    launches += chip->launches();
    used_bytes += chip->memory.used_bytes();
    allocations += chip->memory.host_allocations();
    allocated_bytes += chip->memory.host_bytes();
    kv_bytes += chip->kv_bytes;
  }
  if (name == "launches") return launches;
  if (name == "used_bytes") return used_bytes;
  if (name == "allocations") return allocations;
  if (name == "allocated_bytes") return allocated_bytes;
  if (name == "kv_bytes") return kv_bytes;
  if (name == "foreign_kv_bytes") {
    std::uint64_t bytes = foreign_kv_bytes_;
    for (const auto& [number, held] : runtimes_) bytes += held.runtime->foreign_kv_bytes();
    return bytes;
  }
  return UINT64_MAX;
}

int World::report_leaks() {
  int kinds = 0;
  const auto report = [&kinds](std::uint64_t count, const char* what) {
    if (count == 0) return;
    ++kinds;
    std::fprintf(stderr, "simchip: leak: %llu %s at exit\n", static_cast<unsigned long long>(count),
                 what);
  };
  report(counter("allocations"), "allocations are not freed");
  report(counter("runtimes"), "runtimes are not destroyed");
  report(counter("open_handles"), "handles are open");
  return kinds;
}

RuntimeEntry::RuntimeEntry(void* runtime, const char* call) : runtime_(runtime) {
  bool shared = false;
  {
    Entries& all = entries();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto [first, last] = all.inside.equal_range(runtime);
    for (auto entry = first; entry != last; ++entry) {
      shared = shared || entry->second != std::this_thread::get_id();
    }
    all.inside.emplace(runtime, std::this_thread::get_id());
  }
  if (!shared) return;
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  world.rules().broken("two-threads",
                       std::string(call) + ": another thread is inside of this runtime");
}

RuntimeEntry::~RuntimeEntry() {
  Entries& all = entries();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto [first, last] = all.inside.equal_range(runtime_);
  for (auto entry = first; entry != last; ++entry) {
    if (entry->second != std::this_thread::get_id()) continue;
    all.inside.erase(entry);
    return;
  }
}

}  // namespace tpuserve::simchip
