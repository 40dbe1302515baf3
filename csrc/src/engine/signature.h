#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "tpuserve/runtime/bmodel.h"

namespace tpuserve::engine {

// Checks the inputs and outputs of one shape variant of a net. Every check throws BmodelError that
// names the net, the tensor, what it is and what was expected.
class Signature {
 public:
  static constexpr int kAny = -1;  // any size of a dimension

  Signature(const runtime::Net& net, const runtime::ShapeVariant& variant)
      : net_(net), variant_(variant) {}

  void counts(std::size_t inputs, std::size_t outputs) const;
  void rank(std::size_t input, const char* what, int rank) const;
  void input(std::size_t index, const char* what, const std::vector<int>& dims,
             std::optional<runtime::DType> dtype) const;
  void output(std::size_t index, const char* what, const std::vector<int>& dims,
              std::optional<runtime::DType> dtype) const;
  void float_input(std::size_t index) const;
  void float_output(std::size_t index) const;
  // int32 [1, rows], or [3, rows] where rotary positions have three axes (text uses one value).
  void positions(std::size_t index, int rows) const;

 private:
  void check(const runtime::Port& port, const char* what, const std::vector<int>& dims,
             std::optional<runtime::DType> dtype) const;
  void check_float(const runtime::Port& port) const;

  const runtime::Net& net_;
  const runtime::ShapeVariant& variant_;
};

}  // namespace tpuserve::engine
