#include <pybind11/stl.h>

#include "register.h"
#include "tpuserve/runtime/bmodel.h"

namespace py = pybind11;

namespace tpuserve::bindings {

using runtime::Net;
using runtime::Port;
using runtime::ShapeVariant;

namespace {

py::tuple to_tuple(const runtime::Shape& shape) {
  py::tuple dims(static_cast<std::size_t>(shape.rank()));
  for (int axis = 0; axis < shape.rank(); ++axis) {
    dims[static_cast<std::size_t>(axis)] = shape[axis];
  }
  return dims;
}

using PortLists = std::vector<std::pair<std::vector<Port>, std::vector<Port>>>;

PortLists variants(const Net& net) {
  PortLists result;
  for (const ShapeVariant& variant : net.variants) {
    result.emplace_back(variant.inputs, variant.outputs);
  }
  return result;
}

}  // namespace

void register_specs(py::module_& module) {
  py::class_<Port>(module, "TensorSpec", py::is_final())
      .def_readonly("name", &Port::name)
      .def_property_readonly("shape", [](const Port& port) { return to_tuple(port.shape); })
      .def_property_readonly("dtype", [](const Port& port) { return name(port.dtype); });

  py::class_<Net>(module, "NetSpec", py::is_final())
      .def_readonly("name", &Net::name)
      .def_readonly("dynamic", &Net::dynamic)
      .def_readonly("io_alone", &Net::io_alone)
      .def_property_readonly("variants", &variants);
}

}  // namespace tpuserve::bindings
