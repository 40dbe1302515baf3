// The nets that a bmodel file describes: names, shapes, and where the compiler put their tensors.
// Field numbers are those of the schema bmodel.fbs of the tpu-mlir project.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "profile.h"
#include "vendor_abi.h"

namespace tpuserve::simchip {

namespace abi = runtime::abi;

struct DescriptionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TensorDescription {
  std::string name;
  int dtype = 0;
  abi::Shape shape{};
  std::uint64_t address = 0;  // as compiled
  std::uint64_t bytes = 0;
};

// Compiled address ranges: scratch memory of a net, and of its inputs and outputs alone.
struct AreaDescription {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

struct VariantDescription {
  std::vector<TensorDescription> inputs;
  std::vector<TensorDescription> outputs;
  AreaDescription scratch;
  AreaDescription io;
};

struct NetDescription {
  std::string name;
  NetKind kind = NetKind::kBlock;
  int layer = -1;  // of a block
  bool dynamic = false;
  bool io_alone = false;
  std::vector<VariantDescription> variants;
  std::string weights_key;  // empty without weights; equal weights have equal keys
  std::uint64_t weights_bytes = 0;

  // Slots of a decode net: pairs of history inputs.
  std::size_t slots() const { return (variants[0].inputs.size() - 3) / 2; }
};

std::uint64_t element_bytes(int dtype);  // 0 for a type that is not simulated
std::uint64_t bytes_of(int dtype, const abi::Shape& shape);
std::uint64_t elements_of(const abi::Shape& shape);
std::string to_string(const abi::Shape& shape);

// Throws DescriptionError for a file that is no bmodel or has nets that are not simulated.
std::vector<NetDescription> read_description(const std::string& path);

}  // namespace tpuserve::simchip
