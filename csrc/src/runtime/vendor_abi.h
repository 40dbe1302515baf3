// The part of the C ABI of libbmlib and libbmrt that we call, declared by us.
//
// Only src/runtime includes this file. Layouts follow the vendor's public documentation for 64-bit
// Linux; `Symbols` checks them against the loaded library before anything is trusted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tpuserve::runtime::abi {

struct Context;  // opaque, one open chip
using Handle = Context*;

// What a bmlib call returns. Fixed underlying type: a newer library may return other numbers.
enum Status : int {
  kSuccess = 0,
  kDeviceNotReady = 1,
  kFailure = 2,
  kTimeout = 3,
  kBadParameter = 4,
  kNoMemory = 5,
  kBadData = 6,
  kBusy = 7,
  kNoFeature = 8,
  kNotSupported = 9,
};

// Describes device memory; passed by value everywhere.
struct Memory {
  std::uint64_t address;
  std::uint32_t reserved;
  std::int32_t dmabuf_fd;
  std::uint32_t flags;  // low three bits: memory type, 0 = device
  std::uint32_t size;
};
static_assert(sizeof(Memory) == 24);

struct Shape {
  int rank;
  int dims[8];
};
static_assert(sizeof(Shape) == 36);

struct Tensor {
  int dtype;
  Shape shape;
  Memory memory;
  int store_mode;  // 0: plain row-major
};
static_assert(sizeof(Tensor) == 72);

// One shape variant of a net ("stage" in the vendor's words).
struct StageInfo {
  Shape* input_shapes;
  Shape* output_shapes;
  Memory* input_mems;
  Memory* output_mems;
};

struct NetInfo {
  const char* name;
  bool is_dynamic;
  int input_num;
  const char** input_names;
  int* input_dtypes;
  float* input_scales;
  int output_num;
  const char** output_names;
  int* output_dtypes;
  float* output_scales;
  int stage_num;
  StageInfo* stages;
  std::size_t* max_input_bytes;
  std::size_t* max_output_bytes;
  int* input_zero_point;
  int* output_zero_point;
  int* input_loc_devices;
  int* output_loc_devices;
  int core_num;
  std::int32_t addr_mode;
};

// One weight of a net.
struct CoeffInfo {
  char path[256];
  Memory memory;
};
static_assert(sizeof(CoeffInfo) == 280);

// Decrypts bytes of a bmodel; the result, of *output_bytes, is malloc'ed and freed by the runtime.
using Decrypt = std::uint8_t*(const std::uint8_t* input, std::uint64_t input_bytes,
                              std::uint64_t* output_bytes);

struct HeapStat {
  unsigned total_mib;
  unsigned available_mib;
  unsigned used_mib;
};

struct DeviceStat {
  int total_mib;
  int used_mib;
  int utilisation_percent;
  int heap_count;
  HeapStat heaps[4];
};

// NetInfo::addr_mode.
constexpr std::int32_t kAddrModeIoAlone = 1;

// Flag of bmrt_set_flags: the scratch memory of all nets of one runtime overlaps.
constexpr std::uint32_t kRuntimeShareMemory = 1U << 0;

}  // namespace tpuserve::runtime::abi
