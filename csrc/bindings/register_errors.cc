#include "register.h"
#include "tpuserve/errors.h"

namespace py = pybind11;

namespace tpuserve::bindings {

void register_errors(py::module_& module) {
  // Later registrations are tried first: the base class must come first.
  const auto base = py::register_exception<CoreError>(module, "CoreError", PyExc_RuntimeError);
  py::register_exception<LibraryError>(module, "LibraryError", base);
  py::register_exception<DeviceError>(module, "DeviceError", base);
  py::register_exception<BmodelError>(module, "BmodelError", base);
  py::register_exception<LaunchError>(module, "LaunchError", base);
}

}  // namespace tpuserve::bindings
