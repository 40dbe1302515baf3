#include "description.h"

#include <array>
#include <cstring>
#include <fstream>

#include "flatbuffer.h"

namespace tpuserve::simchip {

namespace {

constexpr std::uint32_t kMagic = 0xff55aaee;

std::vector<char> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<std::uint32_t, 16> header{};  // magic, header, description and binary bytes
  file.read(reinterpret_cast<char*>(header.data()), sizeof header);
  if (!file || header[0] != kMagic || header[1] != sizeof header) {
    throw DescriptionError(path + ": not a bmodel");
  }
  std::vector<char> bytes(header[2]);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw DescriptionError(path + ": truncated");
  return bytes;
}

TensorDescription read_tensor(const FlatTable& table) {
  TensorDescription tensor;
  tensor.name = table.blob(0);
  tensor.dtype = static_cast<int>(table.u32(1));
  tensor.address = table.u64(3);
  const std::vector<FlatTable> shapes = table.tables(5);
  const std::vector<std::uint64_t> dims =
      shapes.empty() ? std::vector<std::uint64_t>{} : shapes[0].u64s(0);
  if (dims.empty() || dims.size() > std::size(tensor.shape.dims)) {
    throw DescriptionError("tensor " + tensor.name + " has " + std::to_string(dims.size()) +
                           " dimensions");
  }
  for (const std::uint64_t size : dims) {
    constexpr std::uint64_t kLargest = 1U << 24;
    if (size < 1 || size > kLargest) {
      throw DescriptionError("tensor " + tensor.name + " has a dimension of " +
                             std::to_string(size));
    }
    tensor.shape.dims[tensor.shape.rank++] = static_cast<int>(size);
  }
  tensor.bytes = bytes_of(tensor.dtype, tensor.shape);
  if (tensor.bytes == 0 || tensor.bytes > UINT32_MAX) {
    throw DescriptionError("tensor " + tensor.name + " is of type " + std::to_string(tensor.dtype) +
                           " " + to_string(tensor.shape) + ", which is not simulated");
  }
  return tensor;
}

std::vector<TensorDescription> read_tensors(const std::vector<FlatTable>& tables) {
  std::vector<TensorDescription> tensors;
  for (const FlatTable& table : tables) tensors.push_back(read_tensor(table));
  return tensors;
}

VariantDescription read_variant(const FlatTable& table) {
  VariantDescription variant;
  variant.inputs = read_tensors(table.tables(0));
  variant.outputs = read_tensors(table.tables(1));
  variant.scratch = {table.u64(2), table.u64(3)};
  variant.io = {table.u64(17), table.u64(18)};
  return variant;
}

// "block_cache_12" is kBlockCache of layer 12; false for a net that is not simulated.
bool read_name(NetDescription& net) {
  std::string name = net.name;
  const std::string older = "qwen_";
  if (name.compare(0, older.size(), older) == 0) name = name.substr(older.size());
  if (name == "embedding" || name == "embedding_cache") {
    net.kind = NetKind::kEmbedding;
    return true;
  }
  if (name == "lm_head" || name == "greedy_head") {
    net.kind = name == "lm_head" ? NetKind::kHead : NetKind::kGreedyHead;
    return true;
  }
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size() || name.size() - digits > 4) return false;
  net.layer = std::stoi(name.substr(digits));
  name = name.substr(0, digits);
  if (name == "block_") {
    net.kind = NetKind::kBlock;
  } else if (name == "block_kv_") {
    net.kind = NetKind::kBlockKv;
  } else if (name == "block_cache_") {
    net.kind = NetKind::kBlockCache;
  } else {
    return false;
  }
  return true;
}

bool has_signature(const NetDescription& net, const VariantDescription& variant) {
  const std::size_t inputs = variant.inputs.size();
  const std::size_t outputs = variant.outputs.size();
  switch (net.kind) {
    case NetKind::kEmbedding:
    case NetKind::kHead:
    case NetKind::kGreedyHead:
      return inputs == 1 && outputs == 1;
    case NetKind::kBlock:
      return (inputs == 2 || inputs == 3) && outputs == 3;
    case NetKind::kBlockKv:
      return inputs == 4 && outputs == 3;
    case NetKind::kBlockCache:
      return inputs >= 5 && inputs % 2 == 1 && outputs == inputs - 2 &&
             inputs == net.variants[0].inputs.size();
  }
  return false;
}

void check_areas(const NetDescription& net, const VariantDescription& variant) {
  const AreaDescription& area = net.io_alone ? variant.io : variant.scratch;
  for (const auto* tensors : {&variant.inputs, &variant.outputs}) {
    for (const TensorDescription& tensor : *tensors) {
      if (tensor.address < area.address ||
          tensor.address + tensor.bytes > area.address + area.bytes) {
        throw DescriptionError("net " + net.name + ": tensor " + tensor.name +
                               " lies outside of the net's memory");
      }
    }
  }
}

NetDescription read_net(const FlatTable& table) {
  NetDescription net;
  net.name = table.blob(0);
  if (!read_name(net)) throw DescriptionError("net " + net.name + " is not simulated");
  net.io_alone = table.u32(5) == static_cast<std::uint32_t>(abi::kAddrModeIoAlone);
  for (const FlatTable& parameter : table.tables(3)) {
    net.dynamic = net.dynamic || parameter.u32(5) != 0;
    net.variants.push_back(read_variant(parameter));
    for (const FlatTable& weights : parameter.table(4)) {
      net.weights_key = weights.blob(1);
      net.weights_bytes = weights.struct_u64(2, 1);
    }
    if (!has_signature(net, net.variants.back())) {
      throw DescriptionError("net " + net.name + " has inputs and outputs that are not simulated");
    }
    check_areas(net, net.variants.back());
  }
  if (net.variants.empty()) throw DescriptionError("net " + net.name + " has no shape variant");
  return net;
}

}  // namespace

std::uint64_t element_bytes(int dtype) {
  // float32, float16, int8, uint8, int16, uint16, int32, uint32, bfloat16
  constexpr std::array<std::uint64_t, 9> kBytes = {4, 2, 1, 1, 2, 2, 4, 4, 2};
  return dtype >= 0 && dtype < static_cast<int>(kBytes.size())
             ? kBytes[static_cast<std::size_t>(dtype)]
             : 0;
}

std::uint64_t elements_of(const abi::Shape& shape) {
  constexpr std::uint64_t kMore = std::uint64_t{1} << 36;  // than any tensor has
  std::uint64_t count = 1;
  for (int axis = 0; axis < shape.rank && count < kMore; ++axis) {
    count *= static_cast<std::uint64_t>(shape.dims[axis]);
  }
  return count;
}

std::uint64_t bytes_of(int dtype, const abi::Shape& shape) {
  return elements_of(shape) * element_bytes(dtype);
}

std::string to_string(const abi::Shape& shape) {
  std::string text = "[";
  for (int axis = 0; axis < shape.rank && axis < static_cast<int>(std::size(shape.dims)); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape.dims[axis]);
  }
  return text + "]";
}

std::vector<NetDescription> read_description(const std::string& path) {
  const std::vector<char> bytes = read_bytes(path);
  std::vector<NetDescription> nets;
  try {
    for (const FlatTable& net : FlatTable::root(bytes).tables(4)) nets.push_back(read_net(net));
  } catch (const FlatbufferError& error) {
    throw DescriptionError(path + ": the description is damaged: " + error.what());
  } catch (const DescriptionError& error) {
    throw DescriptionError(path + ": " + error.what());
  }
  if (nets.empty()) throw DescriptionError(path + ": no nets");
  return nets;
}

}  // namespace tpuserve::simchip
