#include "head.h"

#include "tpuserve/half.h"

namespace tpuserve::engine {

Head::Head(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets)
    : chip_(chip),
      bmodel_(bmodel),
      net_(*nets.head),
      kind_(nets.spec.head),
      result_(chip, net_.variants[0].outputs[0].memory.size_bytes),
      inputs_{net_.variants[0].inputs[0].tensor()},
      outputs_{net_.variants[0].outputs[0].tensor()} {
  // Not the net's own output: libbmrt gives the same memory to this net in every runtime of a chip,
  // so the next slot's launch would overwrite what is not read yet.
  outputs_[0].memory = result_.ref();
}

void Head::launch(runtime::MemoryRef state) {
  inputs_[0].memory = state;
  bmodel_.launch(net_, inputs_, outputs_);
}

void Head::read(const HeadRows& rows, std::size_t row) {
  if (kind_ == HeadKind::kArgmax) {
    chip_.download(rows.tokens + row, outputs_[0].memory, sizeof(std::int32_t));
  } else {
    read_logits(rows.logits + row * outputs_[0].shape.elements());
  }
}

void Head::read_logits(float* target) {
  const std::size_t count = outputs_[0].shape.elements();
  const runtime::DType dtype = outputs_[0].dtype;
  if (dtype == runtime::DType::kFloat32) {
    chip_.download(target, outputs_[0].memory, count * sizeof(float));
    return;
  }
  narrow_.resize(count);
  chip_.download(narrow_.data(), outputs_[0].memory, count * sizeof(std::uint16_t));
  if (dtype == runtime::DType::kFloat16) {
    halfs_to_floats(narrow_.data(), target, count);
  } else {
    bfloats_to_floats(narrow_.data(), target, count);
  }
}

}  // namespace tpuserve::engine
