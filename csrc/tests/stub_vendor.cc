// Vendor libraries that are wrong in one way each, for library_test. STUB_BMLIB or STUB_BMRT
// chooses which library this is; the functions do nothing unless a check at load time calls them.
#include <cstdint>

#define STUB(name) \
  extern "C" __attribute__((visibility("default"))) int name() { return 0; }

#ifdef STUB_BMLIB
STUB(bm_dev_getcount)
STUB(bm_dev_request)
STUB(bm_dev_free)
STUB(bm_malloc_device_byte)
STUB(bm_free_device)
STUB(bm_memcpy_s2d)
STUB(bm_memcpy_d2s)
STUB(bm_memcpy_d2d_byte)
STUB(bm_memset_device_ext)
STUB(bm_thread_sync)

struct Memory {
#ifdef STUB_MOVED_FIELDS
  std::uint32_t moved;
#endif
  std::uint64_t address;
  std::uint32_t reserved;
  std::int32_t dmabuf_fd;
  std::uint32_t flags;
  std::uint32_t size;
};

extern "C" __attribute__((visibility("default"))) Memory
bm_mem_from_device(unsigned long long address, unsigned size) {
  Memory memory{};
  memory.address = address;
  memory.size = size;
  return memory;
}
#endif

#ifdef STUB_BMRT
STUB(bmrt_create)
STUB(bmrt_destroy)
STUB(bmrt_set_flags)
STUB(bmrt_load_bmodel)
STUB(bmrt_get_network_number)
STUB(bmrt_get_network_names)
STUB(bmrt_get_network_info)
STUB(bmrt_tensor_with_device)  // fills nothing: as if the fields were elsewhere
#ifndef STUB_NO_LAUNCH
STUB(bmrt_launch_tensor_ex)
#endif
#endif
