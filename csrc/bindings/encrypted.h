#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "tpuserve/runtime/bmodel_source.h"

namespace tpuserve::bindings {

// A bmodel as Python names it: the path of a plain file, or an encrypted one.
using BmodelArgument = std::variant<std::string, std::shared_ptr<runtime::BmodelSource>>;

std::vector<runtime::BmodelSource> sources_of(const std::vector<BmodelArgument>& bmodels);

}  // namespace tpuserve::bindings
