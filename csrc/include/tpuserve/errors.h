// The errors of the core. Each class becomes one Python exception of the same name.
//
//   CoreError
//   ├── LibraryError   the vendor libraries: missing, wrong layout, a symbol absent
//   ├── DeviceError    a bmlib call on a chip returned something other than success
//   ├── BmodelError    the file is no bmodel, or its nets follow no contract that we know
//   └── LaunchError    a net refused to launch, or its output is garbage
//
// Arguments out of range are std::invalid_argument (ValueError in Python).
#pragma once

#include <stdexcept>

namespace tpuserve {

class CoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class LibraryError : public CoreError {
 public:
  using CoreError::CoreError;
};

class DeviceError : public CoreError {
 public:
  using CoreError::CoreError;
};

class BmodelError : public CoreError {
 public:
  using CoreError::CoreError;
};

class LaunchError : public CoreError {
 public:
  using CoreError::CoreError;
};

}  // namespace tpuserve
