// Checked access to numpy arrays.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <vector>

namespace tpuserve::bindings {

// A C-contiguous array of `rank` dimensions and exactly this element type, or ValueError that says
// what came instead. Nothing is converted: a silent copy would hide a mistake of the caller.
template <typename Element>
const Element* checked_data(const pybind11::array& array, const char* name, int rank) {
  namespace py = pybind11;
  if (!py::isinstance<py::array_t<Element>>(array)) {
    throw py::value_error(std::string(name) + ": expected dtype " +
                          py::str(py::dtype::of<Element>()).cast<std::string>() + ", not " +
                          py::str(array.dtype()).cast<std::string>());
  }
  if (array.ndim() != rank) {
    throw py::value_error(std::string(name) + ": expected " + std::to_string(rank) +
                          (rank == 1 ? " dimension, not " : " dimensions, not ") +
                          std::to_string(array.ndim()));
  }
  if ((array.flags() & py::array::c_style) == 0) {
    throw py::value_error(std::string(name) + ": expected a C-contiguous array");
  }
  return static_cast<const Element*>(array.data());
}

}  // namespace tpuserve::bindings
