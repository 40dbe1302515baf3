#include "tpuserve/runtime/bmodel.h"

#include <algorithm>
#include <exception>
#include <functional>

#include "bmodel_file.h"
#include "convert.h"
#include "decryption.h"
#include "emulator_devices.h"
#include "symbols.h"
#include "tpuserve/errors.h"

namespace tpuserve::runtime {

namespace {

// The inputs or the outputs of a net. Those of several chips follow each other, the same ones for
// each; they become one list.
struct PortArrays {
  int count;
  const char* const* names;
  const int* dtypes;
  const int* places;
};

std::size_t chips_of(const PortArrays& arrays) {
  int highest = 0;
  for (int i = 0; arrays.places != nullptr && i < arrays.count; ++i) {
    highest = std::max(highest, arrays.places[i]);
  }
  return static_cast<std::size_t>(highest) + 1;
}

std::vector<Port> read_ports(const PortArrays& arrays, std::size_t chips, const char* net,
                             const abi::Shape* shapes, const abi::Memory* memories) {
  std::vector<Port> ports;
  const int per_chip = arrays.count / static_cast<int>(chips);
  for (int i = 0; i < arrays.count; ++i) {
    const int place = i / per_chip;
    if (chips > 1 && arrays.places[i] != place) {
      throw BmodelError("net " + std::string(net) + ": expected equal inputs and outputs on its " +
                        std::to_string(chips) + " chips");
    }
    if (place > 0) {
      Port& port = ports[static_cast<std::size_t>(i % per_chip)];
      port.memory.others[static_cast<std::size_t>(place - 1)] = memories[i].address;
      continue;
    }
    Port port;
    port.name = arrays.names[i];
    port.dtype = static_cast<DType>(arrays.dtypes[i]);
    port.shape = from_abi(shapes[i]);
    port.memory = from_abi(memories[i]);
    ports.push_back(std::move(port));
  }
  return ports;
}

Net read_net(const abi::NetInfo& info, std::size_t chips) {
  Net net;
  net.name = info.name;
  net.dynamic = info.is_dynamic;
  net.io_alone = info.addr_mode == abi::kAddrModeIoAlone;
  // Older runtimes end before these members.
  const bool several = chips > 1;
  const PortArrays inputs{info.input_num, info.input_names, info.input_dtypes,
                          several ? info.input_loc_devices : nullptr};
  const PortArrays outputs{info.output_num, info.output_names, info.output_dtypes,
                           several ? info.output_loc_devices : nullptr};
  net.chips = chips_of(inputs);
  for (int i = 0; i < info.stage_num; ++i) {
    const abi::StageInfo& stage = info.stages[i];
    ShapeVariant variant;
    variant.inputs = read_ports(inputs, net.chips, info.name, stage.input_shapes, stage.input_mems);
    variant.outputs =
        read_ports(outputs, net.chips, info.name, stage.output_shapes, stage.output_mems);
    net.variants.push_back(std::move(variant));
  }
  return net;
}

std::vector<Net> read_nets(const Symbols& symbols, void* runtime, std::size_t chips,
                           const std::string& path) {
  const int count = symbols.bmrt_get_network_number(runtime);
  const char** raw_names = nullptr;
  symbols.bmrt_get_network_names(runtime, &raw_names);
  // The array is ours to free, the strings are not.
  const std::unique_ptr<const char*, std::function<void(const char**)>> names(
      raw_names, [&symbols](const char** array) { symbols.free(static_cast<void*>(array)); });
  std::vector<Net> nets;
  for (int i = 0; i < count; ++i) {
    const abi::NetInfo* info = symbols.bmrt_get_network_info(runtime, names.get()[i]);
    if (info == nullptr) throw BmodelError(path + ": no information about net " + names.get()[i]);
    nets.push_back(read_net(*info, chips));
  }
  return nets;
}

void load(const Symbols& symbols, void* runtime, const BmodelSource& source) {
  bool loaded = false;
  if (source.weights == nullptr) {
    loaded = symbols.bmrt_load_bmodel(runtime, source.path.c_str());
  } else if (symbols.bmrt_load_bmodel_with_decrypt == nullptr) {
    throw BmodelError(source.name + ": this libbmrt has no bmrt_load_bmodel_with_decrypt");
  } else {
    const Decryption decryption(*source.weights, symbols.malloc);
    loaded =
        symbols.bmrt_load_bmodel_with_decrypt(runtime, source.path.c_str(), &Decryption::decrypt);
    const std::string failure = decryption.failure();
    if (!failure.empty()) throw BmodelError(source.name + ": " + failure);
  }
  if (!loaded) {
    throw BmodelError(source.name + ": bmrt_load_bmodel refused it; its log has the reason");
  }
}

std::vector<abi::Tensor> to_abi(const std::vector<Tensor>& tensors, std::size_t chips) {
  std::vector<abi::Tensor> result;
  result.reserve(tensors.size() * chips);
  for (std::size_t place = 0; place < chips; ++place) {
    for (const Tensor& tensor : tensors) result.push_back(to_abi(tensor, place));
  }
  return result;
}

void* create_runtime(const Chip& chip) {
  const Symbols& symbols = chip.symbols();
  if (chip.count() == 1) return symbols.bmrt_create(chip.handle());
  if (symbols.bmrt_create_ex == nullptr) {
    throw DeviceError("this libbmrt has no bmrt_create_ex: it runs bmodels of one chip only");
  }
  std::vector<abi::Handle> handles = chip.handles();
  return symbols.bmrt_create_ex(handles.data(), static_cast<int>(handles.size()));
}

// Gives tensors the shapes of the variant that the runtime knows.
void shape_as_compiled(const Net& net, std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) {
  std::size_t variant = 0;
  while (net.variants[variant].inputs[0].shape != inputs[0].shape) {
    if (++variant < net.variants.size()) continue;
    throw LaunchError("net " + net.name + " has no shape variant for " +
                      inputs[0].shape.to_string());
  }
  const ShapeVariant& compiled = net.compiled[variant];
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].shape = compiled.inputs[i].shape;
  for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i].shape = compiled.outputs[i].shape;
}

// An exception's memory comes from the C library of who threw it; our end of a catch block would
// give it to another. So it is never given back.
void keep_foreign_exception(const Symbols& symbols) {
  if (symbols.own_c_library) static_cast<void>(new std::exception_ptr(std::current_exception()));
}

}  // namespace

Bmodel::Bmodel(Chip& chip, const BmodelSource& source)
    : chip_(chip), runtime_(nullptr, chip.symbols().bmrt_destroy) {
  check_bmodel_file(source.path);
  const Symbols& symbols = chip.symbols();
  try {
    runtime_.reset(create_runtime(chip));
    if (runtime_ == nullptr) {
      throw DeviceError("bmrt_create on chip " + std::to_string(chip.id()) + " failed");
    }
    symbols.bmrt_set_flags(runtime_.get(), abi::kRuntimeShareMemory);
    load(symbols, runtime_.get(), source);
  } catch (const CoreError&) {
    throw;
  } catch (const std::exception& error) {
    // libbmrt throws what its own checks find.
    keep_foreign_exception(symbols);
    throw BmodelError(source.name + ": bmrt_load_bmodel: " + error.what());
  }
  nets_ = read_nets(symbols, runtime_.get(), chip.count(), source.name);
}

Bmodel::~Bmodel() = default;

const Net* Bmodel::find(const std::string& name) const {
  for (const Net& net : nets_) {
    if (net.name == name) return &net;
  }
  return nullptr;
}

std::vector<std::uint32_t> Bmodel::weight_bytes(const Net& net) const {
  std::vector<std::uint32_t> result;
  const Symbols& symbols = chip_.symbols();
  if (symbols.bmrt_get_coeff_info == nullptr) return result;
  int count = 0;
  constexpr int kFirstVariant = 0;  // all variants share weights
  const abi::CoeffInfo* infos =
      symbols.bmrt_get_coeff_info(runtime_.get(), net.name.c_str(), kFirstVariant, &count);
  for (int i = 0; infos != nullptr && i < count; ++i) result.push_back(infos[i].memory.size);
  return result;
}

std::vector<AdapterWeight> Bmodel::adapter_weights() const {
  std::map<std::string, AdapterWeight> found;
  const Symbols& symbols = chip_.symbols();
  if (symbols.bmrt_get_coeff_info == nullptr) return {};
  for (const Net& net : nets_) {
    int count = 0;
    constexpr int kFirstVariant = 0;  // all variants share weights
    const abi::CoeffInfo* infos =
        symbols.bmrt_get_coeff_info(runtime_.get(), net.name.c_str(), kFirstVariant, &count);
    for (int i = 0; infos != nullptr && i < count; ++i) {
      const std::string path = infos[i].path;
      if (path.rfind("lora.", 0) == 0) found[path] = {path, from_abi(infos[i].memory)};
    }
  }
  std::vector<AdapterWeight> result;
  for (auto& [path, weight] : found) result.push_back(std::move(weight));
  return result;
}

void Bmodel::launch(const Net& net, const std::vector<Tensor>& inputs,
                    const std::vector<Tensor>& outputs) {
  if (!net.compiled.empty()) {
    std::vector<Tensor> shaped_inputs = inputs;
    std::vector<Tensor> shaped_outputs = outputs;
    shape_as_compiled(net, shaped_inputs, shaped_outputs);
    return launch_as_compiled(net, shaped_inputs, shaped_outputs);
  }
  launch_as_compiled(net, inputs, outputs);
}

void Bmodel::launch_as_compiled(const Net& net, const std::vector<Tensor>& inputs,
                                const std::vector<Tensor>& outputs) {
  const std::vector<abi::Tensor> in = to_abi(inputs, net.chips);
  std::vector<abi::Tensor> out = to_abi(outputs, net.chips);
  chip_.mark_sender();
  const OwnLaunch own(net.chips);
  std::string reason;
  bool launched = false;
  try {
    // user_mem: outputs go where the tensors say, nothing is allocated for us.
    constexpr bool kUserMemory = true;
    constexpr bool kUserStoreMode = false;
    launched = chip_.symbols().bmrt_launch_tensor_ex(
        runtime_.get(), net.name.c_str(), in.data(), static_cast<int>(in.size()), out.data(),
        static_cast<int>(out.size()), kUserMemory, kUserStoreMode);
  } catch (const std::exception& error) {
    keep_foreign_exception(chip_.symbols());
    reason = std::string(": ") + error.what();
  }
  ++launches_;
  if (!launched) {
    throw LaunchError("net " + net.name + " failed to launch on chip " +
                      std::to_string(chip_.id()) + reason);
  }
}

}  // namespace tpuserve::runtime
