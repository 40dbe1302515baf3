#pragma once

#include "vendor_abi.h"

namespace tpuserve::runtime {

// "BM_ERR_TIMEOUT", or "unknown status" for a number that the ABI does not list.
const char* status_name(abi::Status status);

// Throws DeviceError that names call, chip and status unless `status` is success.
void check(abi::Status status, const char* call, int chip);

}  // namespace tpuserve::runtime
