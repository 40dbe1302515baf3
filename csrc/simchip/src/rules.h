// Broken rules of the ABI: counted, and told on standard error.
#pragma once

#include <cstdint>
#include <string>

namespace tpuserve::simchip {

class Rules {
 public:
  // `rule` is a short fixed name, such as "double-free".
  void broken(const std::string& rule, const std::string& text);

  std::uint64_t count() const { return count_; }
  // "rule: text", empty before the first.
  const std::string& last() const { return last_; }

 private:
  std::uint64_t count_ = 0;
  std::string last_;
};

}  // namespace tpuserve::simchip
