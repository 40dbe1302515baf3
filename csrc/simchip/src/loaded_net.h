// A net in a runtime: its description, where its memory is, and what the ABI tells of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "description.h"

namespace tpuserve::simchip {

class LoadedNet {
 public:
  // Addresses of the net's scratch memory and, for an io_alone net, of its inputs and outputs.
  LoadedNet(NetDescription description, std::uint64_t scratch, std::uint64_t io);
  LoadedNet(const LoadedNet&) = delete;
  LoadedNet& operator=(const LoadedNet&) = delete;

  const NetDescription& description() const { return description_; }
  const abi::NetInfo& info() const { return info_; }
  std::uint64_t scratch() const { return scratch_; }

  // The net's own memory of a tensor.
  std::uint64_t own_address(const VariantDescription& variant,
                            const TensorDescription& tensor) const;
  // Null when no variant takes inputs of these shapes.
  const VariantDescription* match(const abi::Tensor* inputs) const;

 private:
  struct Ports {
    std::vector<abi::Shape> shapes;
    std::vector<abi::Memory> memories;
  };
  struct Names {
    std::vector<const char*> names;
    std::vector<int> dtypes;
    std::vector<float> scales;
    std::vector<std::size_t> most_bytes;
    std::vector<int> zeros;
  };

  Ports ports(const VariantDescription& variant,
              const std::vector<TensorDescription>& tensors) const;
  static Names names(const std::vector<TensorDescription>& tensors);
  void fill_info();

  NetDescription description_;
  std::uint64_t scratch_;
  std::uint64_t io_;
  Names inputs_;
  Names outputs_;
  std::vector<Ports> variant_inputs_;
  std::vector<Ports> variant_outputs_;
  std::vector<abi::StageInfo> stages_;
  abi::NetInfo info_{};
};

}  // namespace tpuserve::simchip
