#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "runtime.h"

namespace tpuserve::simchip {

namespace {

// A rule that a launch breaks so that it cannot run.
struct Refusal : std::runtime_error {
  Refusal(std::string which, const std::string& text)
      : std::runtime_error(text), rule(std::move(which)) {}
  std::string rule;
};

std::string shapes_text(const abi::Tensor* tensors, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += (i > 0 ? " " : "") + to_string(tensors[i].shape);
  }
  return text;
}

std::vector<Use> uses_of(const Launch& launch) {
  std::vector<Use> uses = launch.uses;
  for (const Operand& input : launch.inputs) uses.push_back({input.address, input.bytes, false});
  for (const Operand& output : launch.outputs) uses.push_back({output.address, output.bytes, true});
  return uses;
}

}  // namespace

void Runtime::check_memory(const std::string& what, const abi::Memory& memory,
                           std::uint64_t needed) {
  if (memory.size < needed) {
    throw Refusal("small-memory", what + " needs " + std::to_string(needed) +
                                      " bytes, its memory has " + std::to_string(memory.size));
  }
  const std::string problem = chip_.memory.problem(memory.address, memory.size);
  if (!problem.empty()) throw Refusal("bad-address", what + ": " + problem);
}

void Runtime::check_thread() {
  const std::thread::id current = std::this_thread::get_id();
  if (last_thread_ != current && chip_.has_pending(last_thread_)) {
    // bm_thread_sync waits for the launches of its own thread only.
    throw Refusal("two-threads", "another thread has not waited for its launches yet");
  }
  last_thread_ = current;
}

std::vector<Operand> Runtime::check_inputs(const LoadedNet& net, const VariantDescription& variant,
                                           const abi::Tensor* inputs) {
  std::vector<Operand> operands;
  for (std::size_t i = 0; i < variant.inputs.size(); ++i) {
    const TensorDescription& tensor = variant.inputs[i];
    const std::string what = "net " + net.description().name + ", input " + tensor.name;
    if (inputs[i].dtype != tensor.dtype || inputs[i].store_mode != 0) {
      throw Refusal("wrong-type", what + " has another element type or store mode");
    }
    const std::uint64_t bytes = bytes_of(inputs[i].dtype, inputs[i].shape);
    check_memory(what, inputs[i].memory, bytes);
    operands.push_back({inputs[i].memory.address, net.own_address(variant, tensor), inputs[i].dtype,
                        inputs[i].shape, bytes});
  }
  return operands;
}

std::vector<Operand> Runtime::check_outputs(const LoadedNet& net, const VariantDescription& variant,
                                            const Operand& first, abi::Tensor* outputs) {
  std::vector<Operand> operands;
  for (std::size_t i = 0; i < variant.outputs.size(); ++i) {
    const TensorDescription& tensor = variant.outputs[i];
    const std::string what = "net " + net.description().name + ", output " + tensor.name;
    // Room for the net's maximum is asked for, whatever this launch writes.
    check_memory(what, outputs[i].memory, tensor.bytes);
    abi::Shape shape = tensor.shape;
    if (net.description().dynamic && shape.rank > 1) {
      // Rows follow the input: [1, rows, …], or [rows, …] behind a head.
      const int axis = net.description().layer >= 0 ? 1 : 0;
      shape.dims[axis] = first.shape.dims[axis];
    }
    outputs[i].dtype = tensor.dtype;
    outputs[i].shape = shape;
    outputs[i].store_mode = 0;
    operands.push_back({outputs[i].memory.address, net.own_address(variant, tensor), tensor.dtype,
                        shape, bytes_of(tensor.dtype, shape)});
  }
  return operands;
}

bool Runtime::launch(const std::string& name, const abi::Tensor* inputs, int input_count,
                     abi::Tensor* outputs, int output_count) {
  try {
    check_thread();
    const LoadedNet* net = find(name);
    if (net == nullptr) throw Refusal("unknown-net", "there is no net " + name);
    const std::size_t wanted_inputs = net->description().variants[0].inputs.size();
    const std::size_t wanted_outputs = net->description().variants[0].outputs.size();
    if (input_count != static_cast<int>(wanted_inputs) ||
        output_count != static_cast<int>(wanted_outputs)) {
      throw Refusal("wrong-count", "net " + name + " has " + std::to_string(wanted_inputs) +
                                       " inputs and " + std::to_string(wanted_outputs) +
                                       " outputs");
    }
    const VariantDescription* variant = net->match(inputs);
    if (variant == nullptr) {
      throw Refusal("wrong-shape", "net " + name + " has no shape variant for " +
                                       shapes_text(inputs, wanted_inputs));
    }
    const Fault* fault = chip_.count_launch(name);
    if (fault != nullptr && fault->kind == FaultKind::kChipFault) chip_.faulty = true;
    if (chip_.faulty || (fault != nullptr && fault->kind == FaultKind::kFail)) return false;
    std::vector<Operand> in = check_inputs(*net, *variant, inputs);
    std::vector<Operand> out = check_outputs(*net, *variant, in[0], outputs);
    Launch launch{chip_,
                  rules_,
                  net->description(),
                  vocab_size_,
                  layers_,
                  std::move(in),
                  std::move(out),
                  {},
                  0,
                  0,
                  0,
                  nullptr};
    run(launch);
    if (launch.fault != nullptr) fault = launch.fault;
    if (fault != nullptr && fault->kind == FaultKind::kChipFault) chip_.faulty = true;
    if (chip_.faulty || (fault != nullptr && fault->kind == FaultKind::kFail)) return false;
    finish(*net, *variant, launch, fault);
    return true;
  } catch (const Refusal& refusal) {
    rules_.broken(refusal.rule, refusal.what());
    return false;
  }
}

void Runtime::finish(const LoadedNet& net, const VariantDescription& variant, Launch& launch,
                     const Fault* fault) {
  foreign_kv_bytes_ += launch.foreign_kv_bytes;
  chip_.kv_bytes += launch.kv_bytes;
  spoil_scratch(net, variant, launch);
  chip_.queue(uses_of(launch), cost_us(launch));
  if (fault == nullptr) return;
  if (fault->kind == FaultKind::kHang) chip_.queue_hang(fault->seconds);
  if (fault->kind == FaultKind::kNan) {
    chip_.nan_injected = true;
    for (const Operand& output : launch.outputs) {
      std::memset(chip_.memory.at(output.address), 0xff, output.bytes);
    }
  }
}

void Runtime::spoil_scratch(const LoadedNet& net, const VariantDescription& variant,
                            const Launch& launch) {
  // The nets of a runtime use the same memory: what one leaves there, but for its outputs, is gone.
  constexpr std::uint64_t kMostBytes = 1U << 20;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> kept;
  for (const Operand& output : launch.outputs) {
    kept.emplace_back(output.address, output.address + output.bytes);
  }
  std::sort(kept.begin(), kept.end());
  std::uint64_t from = net.scratch();
  const std::uint64_t end = from + std::min(variant.scratch.bytes, kMostBytes);
  for (const auto& [first, last] : kept) {
    if (last <= from || first >= end) continue;
    if (first > from) std::memset(chip_.memory.at(from), 0xff, first - from);
    from = last;
  }
  if (from < end) std::memset(chip_.memory.at(from), 0xff, end - from);
}

double Runtime::cost_us(const Launch& launch) const {
  const auto found = profile_.costs.find(launch.net.kind);
  if (found == profile_.costs.end()) return 0;
  constexpr double kBytesPerUs = 1e3;  // at 1 GB/s
  const NetCost& cost = found->second;
  double total_us = cost.launch_us + cost.row_us * static_cast<double>(launch.rows);
  if (cost.weight_gb_per_s > 0)
    total_us += cost.weight_bytes / (cost.weight_gb_per_s * kBytesPerUs);
  if (cost.kv_gb_per_s > 0) {
    // A copy reads and writes.
    const auto bytes = static_cast<double>(launch.kv_bytes + 2 * launch.foreign_kv_bytes);
    total_us += bytes / (cost.kv_gb_per_s * kBytesPerUs);
  }
  return total_us;
}

}  // namespace tpuserve::simchip
