#include <algorithm>
#include <set>

#include "rows.h"
#include "runtime.h"

namespace tpuserve::simchip {

std::uint64_t SharedMemory::acquire(Chip& chip, const std::string& key, std::uint64_t bytes) {
  for (auto& [address, block] : blocks_) {
    if (block.key != key || block.bytes < bytes) continue;
    ++block.users;
    return address;
  }
  const std::uint64_t address = chip.memory.allocate(bytes, /*host=*/false);
  if (address != 0) blocks_[address] = {key, bytes, 1};
  return address;
}

void SharedMemory::release(Chip& chip, std::uint64_t address) {
  const auto found = blocks_.find(address);
  if (--found->second.users > 0) return;
  blocks_.erase(found);
  chip.memory.release(address);
}

Runtime::Runtime(Chip& chip, SharedMemory& shared, Rules& rules, const Profile& profile)
    : chip_(chip), shared_(shared), rules_(rules), profile_(profile) {}

Runtime::~Runtime() {
  for (const std::uint64_t address : shared_addresses_) shared_.release(chip_, address);
  for (const Use& area : own_areas_) chip_.memory.release(area.address);
}

std::uint64_t Runtime::need(std::uint64_t address, const std::string& what) const {
  if (address != 0) return address;
  throw DescriptionError("no memory for " + what + ": " +
                         std::to_string(chip_.memory.used_bytes()) + " of " +
                         std::to_string(chip_.memory.capacity_bytes()) + " bytes are in use");
}

void Runtime::load(const std::vector<NetDescription>& descriptions) {
  if (!nets_.empty()) throw DescriptionError("a runtime holds one bmodel");
  find_vocab_size(descriptions);
  load_weights(descriptions);
  std::uint64_t shared_scratch_bytes = 1;
  for (const NetDescription& net : descriptions) {
    layers_ = std::max(layers_, net.layer + 1);
    for (const VariantDescription& variant : net.variants) {
      shared_scratch_bytes = std::max(shared_scratch_bytes, variant.scratch.bytes);
    }
  }
  if (share_scratch_) {
    shared_addresses_.push_back(
        need(shared_.acquire(chip_, "scratch", shared_scratch_bytes), "scratch"));
  }
  const std::uint64_t shared_scratch = share_scratch_ ? shared_addresses_.back() : 0;
  for (const NetDescription& net : descriptions) {
    std::uint64_t scratch = shared_scratch;
    if (!share_scratch_) {
      std::uint64_t bytes = 1;
      for (const VariantDescription& variant : net.variants) {
        bytes = std::max(bytes, variant.scratch.bytes);
      }
      scratch = need(chip_.memory.allocate(bytes, /*host=*/false), "scratch of " + net.name);
      own_areas_.push_back({scratch, bytes, true});
    }
    nets_.push_back(std::make_unique<LoadedNet>(net, scratch, allocate_io(net)));
  }
}

void Runtime::find_vocab_size(const std::vector<NetDescription>& nets) {
  vocab_size_ = profile_.vocab_size;
  for (const NetDescription& net : nets) {
    const TensorDescription& out = net.variants[0].outputs[0];
    const auto rows = static_cast<std::uint64_t>(net.variants[0].inputs[0].shape.dims[0]);
    if (net.kind == NetKind::kHead && elements_of(out.shape) > rows) {
      vocab_size_ = static_cast<int>(elements_of(out.shape) / rows);
      return;
    }
    if (net.kind == NetKind::kEmbedding && net.weights_bytes > 0) {
      const auto width = static_cast<std::uint64_t>(out.shape.dims[out.shape.rank - 1]);
      vocab_size_ = static_cast<int>(net.weights_bytes / (width * element_bytes(out.dtype)));
    }
  }
  if (vocab_size_ < static_cast<int>(std::size(kLogits))) {
    throw DescriptionError(
        "neither the head nor the embedding's weights tell the vocabulary: the profile needs "
        "vocab_size in its table model");
  }
}

void Runtime::load_weights(const std::vector<NetDescription>& nets) {
  std::set<std::string> held;  // one use by this runtime is enough
  for (const NetDescription& net : nets) {
    std::uint64_t bytes = net.weights_bytes;
    std::string key = "weights " + net.weights_key;
    if (bytes == 0) {
      // The file holds no weights: the profile says how many there would be.
      const NetKind kind = net.layer >= 0 ? NetKind::kBlockCache : net.kind;
      const auto cost = profile_.costs.find(kind);
      if (cost != profile_.costs.end()) {
        bytes = static_cast<std::uint64_t>(cost->second.weight_bytes);
      }
      if (net.kind == NetKind::kEmbedding) {
        const TensorDescription& out = net.variants[0].outputs[0];
        bytes = static_cast<std::uint64_t>(vocab_size_) *
                static_cast<std::uint64_t>(out.shape.dims[out.shape.rank - 1]) *
                element_bytes(out.dtype);
      }
      key = "net " + std::to_string(static_cast<int>(kind)) + " " + std::to_string(net.layer);
    }
    if (bytes == 0) continue;
    const std::uint64_t address =
        need(shared_.acquire(chip_, key, bytes), "the weights of " + net.name);
    if (held.insert(key).second) {
      shared_addresses_.push_back(address);
    } else {
      shared_.release(chip_, address);
    }
    abi::CoeffInfo& info = weights_[net.name];
    info.memory.address = address;
    info.memory.size = static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, UINT32_MAX));
  }
}

std::uint64_t Runtime::allocate_io(const NetDescription& net) {
  if (!net.io_alone) return 0;
  std::uint64_t bytes = 0;
  for (const VariantDescription& variant : net.variants) bytes = std::max(bytes, variant.io.bytes);
  const std::uint64_t base =
      need(chip_.memory.allocate(bytes, /*host=*/false), "inputs and outputs of " + net.name);
  own_areas_.push_back({base, bytes, true});
  // The first variant is the largest and says where the tensors are; its outputs of K and V are the
  // row behind the history.
  const VariantDescription& largest = net.variants[0];
  const auto split = [&](const TensorDescription& tensor) {
    chip_.memory.split(base + (tensor.address - largest.io.address));
  };
  for (const TensorDescription& tensor : largest.inputs) split(tensor);
  split(largest.outputs[0]);
  return base;
}

const LoadedNet* Runtime::find(const std::string& name) const {
  for (const std::unique_ptr<LoadedNet>& net : nets_) {
    if (net->description().name == name) return net.get();
  }
  return nullptr;
}

const abi::CoeffInfo* Runtime::weights(const std::string& name) const {
  const auto found = weights_.find(name);
  return found == weights_.end() ? nullptr : &found->second;
}

bool Runtime::in_use() const {
  for (const Use& area : own_areas_) {
    if (chip_.in_use(area.address, area.bytes, /*writes_only=*/false)) return true;
  }
  return false;
}

}  // namespace tpuserve::simchip
