// A bmodel loaded on a chip: its nets by name, and launching them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tpuserve/runtime/bmodel_source.h"
#include "tpuserve/runtime/chip.h"
#include "tpuserve/runtime/tensor.h"

namespace tpuserve::runtime {

// An input or output of a net. `memory` is the net's own; maximum sizes for a dynamic net.
struct Port {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  MemoryRef memory;

  Tensor tensor() const { return {dtype, shape, memory}; }
};

// A net is compiled for one or more shapes; the vendor calls a variant a stage.
struct ShapeVariant {
  std::vector<Port> inputs;
  std::vector<Port> outputs;
};

struct Net {
  std::string name;
  bool dynamic = false;
  // Inputs and outputs live apart from the scratch memory that nets share: they survive launches.
  bool io_alone = false;
  // Chips that run it together; ports are those of the first, their memory is that of all.
  std::size_t chips = 1;
  std::vector<ShapeVariant> variants;

  // Where `variants` describes an older net in today's form (engine/older_forms.h):
  std::vector<ShapeVariant> compiled;  // the shapes that the runtime takes, else empty
  bool mask_of_ones = false;           // a mask is 1 where it hides
  int window_rows = 0;  // of K and V that a decode net puts out, the new one last; 0: that alone
};

// A weight that an adapter (LoRA) may fill: zeros until then.
struct AdapterWeight {
  std::string path;  // "lora.RANK.AXIS.NAME", as the compiler wrote it
  MemoryRef memory;  // in whole pages
};

// RAII over a runtime (p_bmrt) with one bmodel. Several over the same file and chip share weights
// (libbmrt finds them by checksum), each has its own input, output and scratch memory.
class Bmodel {
 public:
  // Throws BmodelError when the file is not a whole bmodel, does not decrypt, or the runtime
  // refuses it.
  Bmodel(Chip& chip, const BmodelSource& source);
  ~Bmodel();
  Bmodel(const Bmodel&) = delete;
  Bmodel& operator=(const Bmodel&) = delete;

  const std::vector<Net>& nets() const { return nets_; }
  // Null when there is no such net. Pointers stay valid as long as the Bmodel.
  const Net* find(const std::string& name) const;
  // Sizes of the weights of a net that has some, in whole pages; empty where the runtime does not
  // tell.
  std::vector<std::uint32_t> weight_bytes(const Net& net) const;

  // Of all nets; those of a layer's nets are the same. Empty when the bmodel was compiled without
  // adapters, or the runtime does not tell.
  std::vector<AdapterWeight> adapter_weights() const;

  // Runs a net on the given tensors. Static nets pick the variant whose input shapes are equal;
  // dynamic nets take any shape up to the variant's. Returns before a static net is done (sync).
  // Throws LaunchError.
  void launch(const Net& net, const std::vector<Tensor>& inputs,
              const std::vector<Tensor>& outputs);
  std::uint64_t launches() const { return launches_; }

 private:
  void launch_as_compiled(const Net& net, const std::vector<Tensor>& inputs,
                          const std::vector<Tensor>& outputs);

  Chip& chip_;
  std::unique_ptr<void, void (*)(void*)> runtime_;
  std::vector<Net> nets_;
  std::uint64_t launches_ = 0;
};

}  // namespace tpuserve::runtime
