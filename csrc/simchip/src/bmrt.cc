// The functions of libbmrt that tpuserve calls, and two of our own for tests.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "exported.h"
#include "world.h"

namespace {

using tpuserve::simchip::LoadedNet;
using tpuserve::simchip::Runtime;
using tpuserve::simchip::RuntimeEntry;
using tpuserve::simchip::World;
namespace abi = tpuserve::runtime::abi;

// A runtime while nobody else uses the world; null when it is not there.
class Call {
 public:
  Call(void* runtime, const char* name)
      : entry_(runtime, name),
        lock_(World::get().mutex()),
        runtime_(World::get().runtime(runtime, name)) {}

  explicit operator bool() const { return runtime_ != nullptr; }
  Runtime* operator->() const { return runtime_; }

 private:
  RuntimeEntry entry_;
  std::unique_lock<std::mutex> lock_;
  Runtime* runtime_;
};

}  // namespace

SIMCHIP_EXPORT const char* libbmrt_version() { return "simchip"; }

SIMCHIP_EXPORT void* bmrt_create(abi::Handle handle) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  return world.create_runtime(handle);
}

SIMCHIP_EXPORT void bmrt_destroy(void* runtime) {
  const RuntimeEntry entry(runtime, "bmrt_destroy");
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  world.destroy_runtime(runtime);
}

SIMCHIP_EXPORT void bmrt_set_flags(void* runtime, std::uint32_t flags) {
  const Call call(runtime, "bmrt_set_flags");
  if (call && (flags & abi::kRuntimeShareMemory) != 0) call->share_scratch();
}

SIMCHIP_EXPORT bool bmrt_load_bmodel(void* runtime, const char* path) {
  try {
    const RuntimeEntry entry(runtime, "bmrt_load_bmodel");
    // Reading may take its time: others can go on meanwhile, but not in this runtime.
    const auto nets = tpuserve::simchip::read_description(path);
    const Call call(runtime, "bmrt_load_bmodel");
    if (!call) return false;
    call->load(nets);
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "simchip: bmrt_load_bmodel: %s\n", error.what());
    return false;
  }
}

SIMCHIP_EXPORT int bmrt_get_network_number(void* runtime) {
  const Call call(runtime, "bmrt_get_network_number");
  return call ? static_cast<int>(call->nets().size()) : 0;
}

// The array is for the caller to free.
SIMCHIP_EXPORT void bmrt_get_network_names(void* runtime, const char*** names) {
  *names = nullptr;
  const Call call(runtime, "bmrt_get_network_names");
  if (!call) return;
  const auto& nets = call->nets();
  *names = static_cast<const char**>(std::calloc(nets.size() + 1, sizeof(const char*)));
  for (std::size_t i = 0; *names != nullptr && i < nets.size(); ++i) {
    (*names)[i] = nets[i]->info().name;
  }
}

SIMCHIP_EXPORT const abi::NetInfo* bmrt_get_network_info(void* runtime, const char* name) {
  const Call call(runtime, "bmrt_get_network_info");
  const LoadedNet* net = call ? call->find(name) : nullptr;
  return net != nullptr ? &net->info() : nullptr;
}

SIMCHIP_EXPORT const abi::CoeffInfo* bmrt_get_coeff_info(void* runtime, const char* name, int,
                                                         int* count) {
  const Call call(runtime, "bmrt_get_coeff_info");
  const abi::CoeffInfo* info = call ? call->weights(name) : nullptr;
  *count = info != nullptr ? 1 : 0;
  return info;
}

SIMCHIP_EXPORT void bmrt_tensor_with_device(abi::Tensor* tensor, abi::Memory memory, int dtype,
                                            abi::Shape shape) {
  *tensor = {};
  tensor->dtype = dtype;
  tensor->shape = shape;
  tensor->memory = memory;
}

SIMCHIP_EXPORT bool bmrt_launch_tensor_ex(void* runtime, const char* name,
                                          const abi::Tensor* inputs, int input_count,
                                          abi::Tensor* outputs, int output_count, bool user_memory,
                                          bool) {
  const Call call(runtime, "bmrt_launch_tensor_ex");
  if (!call) return false;
  if (!user_memory) {
    World::get().rules().broken("no-memory-given", std::string("net ") + name +
                                                       ": outputs without memory of the caller's "
                                                       "are not simulated");
    return false;
  }
  return call->launch(name, inputs, input_count, outputs, output_count);
}

// "broken_rules", "launches", "open_handles", "runtimes", "used_bytes", "allocations",
// "allocated_bytes", "kv_bytes", "foreign_kv_bytes"; the largest number for any other name.
SIMCHIP_EXPORT std::uint64_t simchip_counter(const char* name) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  return world.counter(name);
}

// "rule: text" of the last broken rule, cut to `size` bytes with the ending zero.
SIMCHIP_EXPORT void simchip_last_broken_rule(char* text, std::size_t size) {
  World& world = World::get();
  const std::lock_guard<std::mutex> lock(world.mutex());
  std::snprintf(text, size, "%s", world.rules().last().c_str());
}
