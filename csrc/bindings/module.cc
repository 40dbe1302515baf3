#include "register.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of device_svc. Nothing here is stable.";

  tpuserve::bindings::register_errors(module);
  tpuserve::bindings::register_library(module);
  tpuserve::bindings::register_specs(module);
  tpuserve::bindings::register_encrypted(module);
  tpuserve::bindings::register_engine(module);
  tpuserve::bindings::register_sampler(module);
}
