#include <pybind11/stl.h>

#include "register.h"
#include "tpuserve/runtime/library.h"

namespace py = pybind11;

namespace tpuserve::bindings {

using runtime::ChipStatus;
using runtime::Library;

void register_library(py::module_& module) {
  py::class_<ChipStatus>(module, "ChipStatus", py::is_final())
      .def_readonly("chip", &ChipStatus::chip)
      .def_readonly("memory_total_bytes", &ChipStatus::memory_total_bytes)
      .def_readonly("memory_used_bytes", &ChipStatus::memory_used_bytes)
      .def_readonly("utilisation_ratio", &ChipStatus::utilisation_ratio)
      .def_readonly("temperature_celsius", &ChipStatus::temperature_celsius)
      .def_readonly("power_watts", &ChipStatus::power_watts)
      .def_readonly("clock_hz", &ChipStatus::clock_hz);

  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<Library, std::shared_ptr<Library>>(module, "Library", py::is_final())
      .def(py::init(&Library::load), py::arg("directory"), py::kw_only(),
           py::arg("emulator") = false, NoGil())
      .def_property_readonly("directory", &Library::directory)
      .def_property_readonly("emulator", &Library::emulator)
      .def_property_readonly("version", &Library::version)
      .def_property_readonly("decrypts", &Library::decrypts)
      .def("chip_count", &Library::chip_count, NoGil())
      .def_property_readonly("chip_limit", &Library::chip_limit)
      .def("chip_status", &Library::chip_status, py::arg("chip"), NoGil());
}

}  // namespace tpuserve::bindings
