#include "head.h"

#include "tpuserve/half.h"

namespace tpuserve::engine {

using runtime::MemoryRef;
using runtime::ShapeVariant;
using runtime::Tensor;

Head::Head(runtime::Chip& chip, runtime::Bmodel& bmodel, const ModelNets& nets)
    : chip_(chip),
      bmodel_(bmodel),
      net_(nets.head),
      kind_(nets.spec.head),
      width_(static_cast<std::size_t>(net_.widest().outputs[0].shape[1])),
      dtype_(net_.widest().outputs[0].dtype),
      // Not the net's own output: libbmrt gives the same memory to this net in every runtime of a
      // chip, so the next context's launch would overwrite what is not read yet.
      result_(chip, net_.widest().outputs[0].shape.elements() * size_bytes(dtype_)),
      greedy_(nets.greedy) {
  if (greedy_.net == nullptr) return;
  tokens_.emplace(chip,
                  static_cast<std::size_t>(net_.by_rows.rbegin()->first) * sizeof(std::int32_t));
}

void Head::launch(MemoryRef states, int rows) {
  const ShapeVariant& variant = *net_.by_rows.at(rows);
  Tensor input = variant.inputs[0].tensor();
  Tensor output = variant.outputs[0].tensor();
  input.memory = states;
  output.memory = result_.ref();
  bmodel_.launch(*net_.net, {input}, {output});
  if (tokens_.has_value()) launch_greedy(rows);
}

void Head::launch_greedy(int rows) {
  // The vendor's net takes one row.
  const int step = greedy_.by_rows.count(rows) != 0 ? rows : 1;
  const ShapeVariant& variant = *greedy_.by_rows.at(step);
  const auto size = static_cast<std::size_t>(step);
  const std::size_t row_bytes = width_ * size_bytes(dtype_);
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); row += size) {
    Tensor input = variant.inputs[0].tensor();
    Tensor output = variant.outputs[0].tensor();
    input.memory = result_.ref().slice(row * row_bytes, size * row_bytes);
    output.memory = tokens_->ref().slice(row * sizeof(std::int32_t), size * sizeof(std::int32_t));
    bmodel_.launch(*greedy_.net, {input}, {output});
  }
}

void Head::read(const HeadRows& rows, std::size_t target, std::size_t source) {
  if (kind_ == HeadKind::kLogits) return read_logits(rows.logits + target * width_, source);
  constexpr std::size_t kTokenBytes = sizeof(std::int32_t);
  const MemoryRef tokens = tokens_.has_value() ? tokens_->ref() : result_.ref();
  chip_.download(rows.tokens + target, tokens.slice(source * kTokenBytes, kTokenBytes),
                 kTokenBytes);
}

void Head::read_logits(float* target, std::size_t source) {
  const std::size_t bytes = width_ * size_bytes(dtype_);
  const MemoryRef row = result_.ref().slice(source * bytes, bytes);
  if (dtype_ == runtime::DType::kFloat32) {
    chip_.download(target, row, bytes);
    return;
  }
  narrow_.resize(width_);
  chip_.download(narrow_.data(), row, bytes);
  if (dtype_ == runtime::DType::kFloat16) {
    halfs_to_floats(narrow_.data(), target, width_);
  } else {
    bfloats_to_floats(narrow_.data(), target, width_);
  }
}

}  // namespace tpuserve::engine
