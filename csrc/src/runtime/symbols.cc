#include "symbols.h"

#include <dlfcn.h>

#include <cstring>

#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

template <typename Function>
void find_optional(void* library, const char* symbol, Function*& target) {
  // POSIX promises that a pointer from dlsym converts to a function pointer.
  target = reinterpret_cast<Function*>(dlsym(library, symbol));
}

template <typename Function>
void find(void* library, const std::string& path, const char* symbol, Function*& target) {
  find_optional(library, symbol, target);
  if (target == nullptr) throw LibraryError(path + " has no symbol " + symbol);
}

// Lets the library fill our structs; a field that arrives elsewhere means another layout.
void check_layouts(const Symbols& symbols, const std::string& bmlib_path,
                   const std::string& bmrt_path) {
  constexpr std::uint64_t kAddress = 0x123456789aULL;
  constexpr unsigned kSize = 0x4321;
  const abi::Memory memory = symbols.bm_mem_from_device(kAddress, kSize);
  if (memory.address != kAddress || memory.size != kSize) {
    throw LibraryError(bmlib_path + " has another layout of bm_device_mem_t");
  }

  struct {
    abi::Tensor tensor;
    unsigned char canary[64];
  } probe;
  std::memset(&probe, 0xa5, sizeof probe);
  abi::Shape shape{};
  shape.rank = 2;
  shape.dims[0] = 3;
  shape.dims[1] = 5;
  symbols.bmrt_tensor_with_device(&probe.tensor, memory, 1, shape);
  bool intact = true;
  for (const unsigned char byte : probe.canary) intact = intact && byte == 0xa5;
  const abi::Tensor& tensor = probe.tensor;
  if (!intact || tensor.dtype != 1 || tensor.shape.rank != 2 || tensor.shape.dims[1] != 5 ||
      tensor.memory.address != kAddress || tensor.memory.size != kSize || tensor.store_mode != 0) {
    throw LibraryError(bmrt_path + " has another layout of bm_tensor_t");
  }
}

}  // namespace

Symbols load_symbols(void* bmlib, const std::string& bmlib_path, void* bmrt,
                     const std::string& bmrt_path) {
  Symbols s{};
#define TPUSERVE_BMLIB(name) find(bmlib, bmlib_path, #name, s.name)
#define TPUSERVE_BMRT(name) find(bmrt, bmrt_path, #name, s.name)
  TPUSERVE_BMLIB(bm_dev_getcount);
  TPUSERVE_BMLIB(bm_dev_request);
  TPUSERVE_BMLIB(bm_dev_free);
  TPUSERVE_BMLIB(bm_malloc_device_byte);
  TPUSERVE_BMLIB(bm_free_device);
  TPUSERVE_BMLIB(bm_memcpy_s2d);
  TPUSERVE_BMLIB(bm_memcpy_d2s);
  TPUSERVE_BMLIB(bm_memcpy_d2d_byte);
  TPUSERVE_BMLIB(bm_memset_device_ext);
  TPUSERVE_BMLIB(bm_thread_sync);
  TPUSERVE_BMLIB(bm_mem_from_device);
  TPUSERVE_BMRT(bmrt_create);
  TPUSERVE_BMRT(bmrt_destroy);
  TPUSERVE_BMRT(bmrt_set_flags);
  TPUSERVE_BMRT(bmrt_load_bmodel);
  TPUSERVE_BMRT(bmrt_get_network_number);
  TPUSERVE_BMRT(bmrt_get_network_names);
  TPUSERVE_BMRT(bmrt_get_network_info);
  TPUSERVE_BMRT(bmrt_tensor_with_device);
  TPUSERVE_BMRT(bmrt_launch_tensor_ex);
#undef TPUSERVE_BMLIB
#undef TPUSERVE_BMRT
  find_optional(bmlib, "bm_get_stat", s.bm_get_stat);
  find_optional(bmlib, "bm_get_chip_temp", s.bm_get_chip_temp);
  find_optional(bmlib, "bm_get_tpu_power", s.bm_get_tpu_power);
  find_optional(bmlib, "bm_get_clk_tpu_freq", s.bm_get_clk_tpu_freq);
  find_optional(bmrt, "libbmrt_version", s.libbmrt_version);
  find_optional(bmrt, "bmrt_get_coeff_info", s.bmrt_get_coeff_info);
  find_optional(bmrt, "bmrt_create_ex", s.bmrt_create_ex);
  find_optional(bmrt, "bmrt_load_bmodel_with_decrypt", s.bmrt_load_bmodel_with_decrypt);
  check_layouts(s, bmlib_path, bmrt_path);
  return s;
}

}  // namespace tpuserve::runtime
