#pragma once

#include <string>

namespace tpuserve::runtime {

// Checks that a file begins with a bmodel header whose sections fill the file. The vendor's loader
// trusts these sizes. Throws BmodelError that names the file and the sizes.
void check_bmodel_file(const std::string& path);

}  // namespace tpuserve::runtime
