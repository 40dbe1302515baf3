#include "register.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of device_svc. Nothing here is stable.";
  // The types are described in device_svc/_core.pyi.
  pybind11::options options;
  options.disable_function_signatures();

  tpuserve::bindings::register_errors(module);
  tpuserve::bindings::register_library(module);
  tpuserve::bindings::register_specs(module);
  tpuserve::bindings::register_engine(module);
  tpuserve::bindings::register_sampler(module);
}
