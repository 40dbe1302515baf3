// The table of functions that we call in the vendor libraries.
#pragma once

#include <string>

#include "vendor_abi.h"

namespace tpuserve::runtime {

// Members carry the vendor's names, so that an error text can be looked up in its manual.
struct Symbols {
  // Of the C library that the vendor libraries use: a copy of the emulator has one of its own, and
  // what was allocated there must be freed there.
  void* (*malloc)(std::size_t);
  void (*free)(void*);
  bool own_c_library;

  // libbmlib, required
  abi::Status (*bm_dev_getcount)(int*);
  abi::Status (*bm_dev_request)(abi::Handle*, int);
  void (*bm_dev_free)(abi::Handle);
  abi::Status (*bm_malloc_device_byte)(abi::Handle, abi::Memory*, unsigned);
  void (*bm_free_device)(abi::Handle, abi::Memory);
  abi::Status (*bm_memcpy_s2d)(abi::Handle, abi::Memory, void*);
  abi::Status (*bm_memcpy_d2s)(abi::Handle, void*, abi::Memory);
  abi::Status (*bm_memcpy_d2d_byte)(abi::Handle, abi::Memory, std::size_t, abi::Memory, std::size_t,
                                    std::size_t);
  abi::Status (*bm_memset_device_ext)(abi::Handle, void*, int, abi::Memory);
  abi::Status (*bm_thread_sync)(abi::Handle);
  abi::Memory (*bm_mem_from_device)(unsigned long long, unsigned);

  // libbmlib, null where the driver is too old
  abi::Status (*bm_get_stat)(abi::Handle, abi::DeviceStat*);
  abi::Status (*bm_get_chip_temp)(abi::Handle, unsigned*);
  abi::Status (*bm_get_tpu_power)(abi::Handle, float*);
  abi::Status (*bm_get_clk_tpu_freq)(abi::Handle, int*);

  // libbmrt, required
  void* (*bmrt_create)(abi::Handle);
  void (*bmrt_destroy)(void*);
  void (*bmrt_set_flags)(void*, std::uint32_t);
  bool (*bmrt_load_bmodel)(void*, const char*);
  int (*bmrt_get_network_number)(void*);
  void (*bmrt_get_network_names)(void*, const char***);
  const abi::NetInfo* (*bmrt_get_network_info)(void*, const char*);
  void (*bmrt_tensor_with_device)(abi::Tensor*, abi::Memory, int, abi::Shape);
  bool (*bmrt_launch_tensor_ex)(void*, const char*, const abi::Tensor*, int, abi::Tensor*, int,
                                bool, bool);

  // libbmrt, null where the runtime is too old
  void* (*bmrt_create_ex)(abi::Handle*, int);
  const char* (*libbmrt_version)();
  bool (*bmrt_load_bmodel_with_decrypt)(void*, const char*, abi::Decrypt*);
  const abi::CoeffInfo* (*bmrt_get_coeff_info)(void*, const char*, int, int*);
};

// Fills the table from two handles of dlopen and checks struct layouts by calling both libraries.
// Throws LibraryError that names the first missing symbol and the file that should have it.
Symbols load_symbols(void* bmlib, const std::string& bmlib_path, void* bmrt,
                     const std::string& bmrt_path);

}  // namespace tpuserve::runtime
