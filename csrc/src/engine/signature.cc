#include "signature.h"

#include <string>

#include "tpuserve/errors.h"

namespace tpuserve::engine {

using runtime::DType;
using runtime::Port;

namespace {

bool matches(const runtime::Shape& shape, const std::vector<int>& dims) {
  if (shape.rank() != static_cast<int>(dims.size())) return false;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const int wanted = dims[static_cast<std::size_t>(axis)];
    if (shape[axis] < 1 || (wanted != Signature::kAny && shape[axis] != wanted)) return false;
  }
  return true;
}

std::string to_string(const std::vector<int>& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i > 0) text += ", ";
    text += dims[i] == Signature::kAny ? "any" : std::to_string(dims[i]);
  }
  return text + "]";
}

}  // namespace

void Signature::counts(std::size_t inputs, std::size_t outputs) const {
  if (variant_.inputs.size() == inputs && variant_.outputs.size() == outputs) return;
  throw BmodelError("net " + net_.name + ": expected " + std::to_string(inputs) + " inputs and " +
                    std::to_string(outputs) + " outputs, not " +
                    std::to_string(variant_.inputs.size()) + " and " +
                    std::to_string(variant_.outputs.size()));
}

void Signature::rank(std::size_t input, const char* what, int rank) const {
  const Port& port = variant_.inputs[input];
  if (port.shape.rank() == rank) return;
  throw BmodelError("net " + net_.name + ", " + what + " (" + port.name + "): expected " +
                    std::to_string(rank) + " dimensions, not " + port.shape.to_string());
}

void Signature::input(std::size_t index, const char* what, const std::vector<int>& dims,
                      std::optional<DType> dtype) const {
  check(variant_.inputs[index], what, dims, dtype);
}

void Signature::output(std::size_t index, const char* what, const std::vector<int>& dims,
                       std::optional<DType> dtype) const {
  check(variant_.outputs[index], what, dims, dtype);
}

void Signature::float_input(std::size_t index) const { check_float(variant_.inputs[index]); }

void Signature::float_output(std::size_t index) const { check_float(variant_.outputs[index]); }

void Signature::positions(std::size_t index, int rows) const {
  const Port& port = variant_.inputs[index];
  const bool three_axes = port.shape.rank() == 2 && port.shape[0] == 3;
  check(port, "positions", {three_axes ? 3 : 1, rows}, DType::kInt32);
}

void Signature::check(const Port& port, const char* what, const std::vector<int>& dims,
                      std::optional<DType> dtype) const {
  if (matches(port.shape, dims) && (!dtype.has_value() || port.dtype == *dtype)) return;
  std::string text = "net " + net_.name + ", " + what + " (" + port.name + "): expected ";
  if (dtype.has_value()) text += std::string(name(*dtype)) + " ";
  throw BmodelError(text + to_string(dims) + ", not " + name(port.dtype) + " " +
                    port.shape.to_string());
}

void Signature::check_float(const Port& port) const {
  switch (port.dtype) {
    case DType::kFloat16:
    case DType::kBfloat16:
    case DType::kFloat32:
      return;
    default:
      throw BmodelError("net " + net_.name + ", " + port.name + ": expected floats, not " +
                        name(port.dtype));
  }
}

}  // namespace tpuserve::engine
