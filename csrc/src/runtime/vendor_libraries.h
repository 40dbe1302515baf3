#pragma once

#include <optional>
#include <string>

#include "symbols.h"

namespace tpuserve::runtime {

// Loads libbmlib and libbmrt of a directory, for good: their threads may outlive every owner.
//
// A copy of the emulator has one chip, and libbmlib ends the process when it is asked for another.
// So each emulated chip above number 0 is a copy of the libraries in a link namespace of its own.
// Throws LibraryError when a file or symbol is missing or a struct has another layout.
Symbols load_vendor_libraries(const std::string& directory, std::optional<int> emulated_chip);

}  // namespace tpuserve::runtime
