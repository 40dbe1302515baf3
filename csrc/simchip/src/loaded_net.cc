#include "loaded_net.h"

#include <algorithm>
#include <utility>

namespace tpuserve::simchip {

LoadedNet::LoadedNet(NetDescription description, std::uint64_t scratch, std::uint64_t io)
    : description_(std::move(description)),
      scratch_(scratch),
      io_(io),
      inputs_(names(description_.variants[0].inputs)),
      outputs_(names(description_.variants[0].outputs)) {
  for (const VariantDescription& variant : description_.variants) {
    variant_inputs_.push_back(ports(variant, variant.inputs));
    variant_outputs_.push_back(ports(variant, variant.outputs));
  }
  fill_info();
}

std::uint64_t LoadedNet::own_address(const VariantDescription& variant,
                                     const TensorDescription& tensor) const {
  return description_.io_alone ? io_ + (tensor.address - variant.io.address)
                               : scratch_ + (tensor.address - variant.scratch.address);
}

LoadedNet::Ports LoadedNet::ports(const VariantDescription& variant,
                                  const std::vector<TensorDescription>& tensors) const {
  Ports result;
  for (const TensorDescription& tensor : tensors) {
    result.shapes.push_back(tensor.shape);
    abi::Memory memory{};
    memory.address = own_address(variant, tensor);
    memory.size = static_cast<std::uint32_t>(tensor.bytes);
    result.memories.push_back(memory);
  }
  return result;
}

LoadedNet::Names LoadedNet::names(const std::vector<TensorDescription>& tensors) {
  Names result;
  for (const TensorDescription& tensor : tensors) {
    result.names.push_back(tensor.name.c_str());
    result.dtypes.push_back(tensor.dtype);
    result.scales.push_back(1.0F);
    result.most_bytes.push_back(tensor.bytes);
    result.zeros.push_back(0);
  }
  return result;
}

void LoadedNet::fill_info() {
  for (std::size_t i = 0; i < variant_inputs_.size(); ++i) {
    stages_.push_back({variant_inputs_[i].shapes.data(), variant_outputs_[i].shapes.data(),
                       variant_inputs_[i].memories.data(), variant_outputs_[i].memories.data()});
  }
  info_.name = description_.name.c_str();
  info_.is_dynamic = description_.dynamic;
  info_.input_num = static_cast<int>(inputs_.names.size());
  info_.input_names = inputs_.names.data();
  info_.input_dtypes = inputs_.dtypes.data();
  info_.input_scales = inputs_.scales.data();
  info_.output_num = static_cast<int>(outputs_.names.size());
  info_.output_names = outputs_.names.data();
  info_.output_dtypes = outputs_.dtypes.data();
  info_.output_scales = outputs_.scales.data();
  info_.stage_num = static_cast<int>(stages_.size());
  info_.stages = stages_.data();
  info_.max_input_bytes = inputs_.most_bytes.data();
  info_.max_output_bytes = outputs_.most_bytes.data();
  info_.input_zero_point = inputs_.zeros.data();
  info_.output_zero_point = outputs_.zeros.data();
  info_.input_loc_devices = inputs_.zeros.data();
  info_.output_loc_devices = outputs_.zeros.data();
  info_.core_num = 1;
  info_.addr_mode = description_.io_alone ? abi::kAddrModeIoAlone : 0;
}

const VariantDescription* LoadedNet::match(const abi::Tensor* inputs) const {
  for (const VariantDescription& variant : description_.variants) {
    bool fits = true;
    for (std::size_t i = 0; i < variant.inputs.size() && fits; ++i) {
      const abi::Shape& compiled = variant.inputs[i].shape;
      const abi::Shape& given = inputs[i].shape;
      fits = given.rank == compiled.rank;
      for (int axis = 0; fits && axis < compiled.rank; ++axis) {
        const int size = given.dims[axis];
        fits = description_.dynamic ? size >= 1 && size <= compiled.dims[axis]
                                    : size == compiled.dims[axis];
      }
    }
    if (fits) return &variant;
  }
  return nullptr;
}

}  // namespace tpuserve::simchip
