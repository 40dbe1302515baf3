#include "status.h"

#include <string>

#include "tpuserve/errors.h"

namespace tpuserve::runtime {

const char* status_name(abi::Status status) {
  switch (status) {
    case abi::kSuccess:
      return "BM_SUCCESS";
    case abi::kDeviceNotReady:
      return "BM_ERR_DEVNOTREADY";
    case abi::kFailure:
      return "BM_ERR_FAILURE";
    case abi::kTimeout:
      return "BM_ERR_TIMEOUT";
    case abi::kBadParameter:
      return "BM_ERR_PARAM";
    case abi::kNoMemory:
      return "BM_ERR_NOMEM";
    case abi::kBadData:
      return "BM_ERR_DATA";
    case abi::kBusy:
      return "BM_ERR_BUSY";
    case abi::kNoFeature:
      return "BM_ERR_NOFEATURE";
    case abi::kNotSupported:
      return "BM_NOT_SUPPORTED";
  }
  return "unknown status";
}

void check(abi::Status status, const char* call, int chip) {
  if (status == abi::kSuccess) return;
  throw DeviceError(std::string(call) + " on chip " + std::to_string(chip) + ": " +
                    status_name(status) + " (" + std::to_string(static_cast<int>(status)) + ")");
}

}  // namespace tpuserve::runtime
