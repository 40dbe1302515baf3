#pragma once

#include <utility>

namespace tpuserve::runtime {

// Copies of the emulator's libraries in one process. A copy has exactly one chip.
constexpr int kEmulatedChips = 8;

// What the vendor's code calls cannot tell which copy called. So a hook that must know is a static
// member of Hook<copy>, and every copy has its own. Returns what Hook<copy>::install(arguments…)
// returns.
template <template <int> class Hook, typename... Arguments, int... kCopies>
auto install_hook(int copy, std::integer_sequence<int, kCopies...>, Arguments... arguments) {
  using Install = decltype(&Hook<0>::install);
  constexpr Install kInstall[] = {&Hook<kCopies>::install...};
  return kInstall[copy](arguments...);
}

template <template <int> class Hook, typename... Arguments>
auto install_hook(int copy, Arguments... arguments) {
  return install_hook<Hook>(copy, std::make_integer_sequence<int, kEmulatedChips>(), arguments...);
}

}  // namespace tpuserve::runtime
