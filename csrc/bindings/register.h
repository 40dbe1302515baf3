// One function per bound type or group of types; module.cc calls them in order.
#pragma once

#include <pybind11/pybind11.h>

namespace tpuserve::bindings {

void register_errors(pybind11::module_& module);
void register_library(pybind11::module_& module);
void register_specs(pybind11::module_& module);
void register_encrypted(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_sampler(pybind11::module_& module);

}  // namespace tpuserve::bindings
