#include "rules.h"

#include <cstdio>

namespace tpuserve::simchip {

void Rules::broken(const std::string& rule, const std::string& text) {
  constexpr std::uint64_t kMostLines = 100;
  last_ = rule + ": " + text;
  if (++count_ <= kMostLines) std::fprintf(stderr, "simchip: %s\n", last_.c_str());
}

}  // namespace tpuserve::simchip
