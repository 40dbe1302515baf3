// A runtime (p_bmrt): one bmodel on one chip, and launching its nets.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chip.h"
#include "kernels.h"
#include "loaded_net.h"
#include "rules.h"

namespace tpuserve::simchip {

// What runtimes of one chip share: weights, and scratch memory where they were told to.
class SharedMemory {
 public:
  // Each returns 0 when the chip has no room. Every success is to be given back once.
  std::uint64_t acquire(Chip& chip, const std::string& key, std::uint64_t bytes);
  void release(Chip& chip, std::uint64_t address);

 private:
  struct Block {
    std::string key;
    std::uint64_t bytes;
    std::uint64_t users;
  };
  std::map<std::uint64_t, Block> blocks_;
};

class Runtime {
 public:
  Runtime(Chip& chip, SharedMemory& shared, Rules& rules, const Profile& profile);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  void share_scratch() { share_scratch_ = true; }
  // Throws DescriptionError.
  void load(const std::vector<NetDescription>& nets);
  const std::vector<std::unique_ptr<LoadedNet>>& nets() const { return nets_; }
  const LoadedNet* find(const std::string& name) const;
  // The weights of a net; null when it has none.
  const abi::CoeffInfo* weights(const std::string& name) const;

  bool launch(const std::string& name, const abi::Tensor* inputs, int input_count,
              abi::Tensor* outputs, int output_count);

  std::uint64_t foreign_kv_bytes() const { return foreign_kv_bytes_; }
  // Whether a launch that nobody waited for uses this runtime's memory.
  bool in_use() const;

 private:
  std::uint64_t need(std::uint64_t address, const std::string& what) const;
  void load_weights(const std::vector<NetDescription>& nets);
  std::uint64_t allocate_io(const NetDescription& net);
  void find_vocab_size(const std::vector<NetDescription>& nets);

  std::vector<Operand> check_inputs(const LoadedNet& net, const VariantDescription& variant,
                                    const abi::Tensor* inputs);
  std::vector<Operand> check_outputs(const LoadedNet& net, const VariantDescription& variant,
                                     const Operand& first, abi::Tensor* outputs);
  void check_thread();
  void check_memory(const std::string& what, const abi::Memory& memory, std::uint64_t needed);
  void finish(const LoadedNet& net, const VariantDescription& variant, Launch& launch,
              const Fault* fault);
  void spoil_scratch(const LoadedNet& net, const VariantDescription& variant, const Launch& launch);
  double cost_us(const Launch& launch) const;

  Chip& chip_;
  SharedMemory& shared_;
  Rules& rules_;
  const Profile& profile_;
  bool share_scratch_ = false;
  std::thread::id last_thread_;  // that launched
  std::vector<std::unique_ptr<LoadedNet>> nets_;
  std::map<std::string, abi::CoeffInfo> weights_;  // by net
  std::vector<std::uint64_t> shared_addresses_;
  std::vector<Use> own_areas_;
  int vocab_size_ = 0;
  int layers_ = 0;
  std::uint64_t foreign_kv_bytes_ = 0;
};

}  // namespace tpuserve::simchip
