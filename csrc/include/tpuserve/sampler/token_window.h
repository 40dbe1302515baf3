#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>

namespace tpuserve::sampler {

// Counts of the last tokens of prompt and completion.
class TokenWindow {
 public:
  struct Counts {
    int all = 0;
    int completion = 0;
  };

  // limit 0: no limit.
  explicit TokenWindow(std::size_t limit) : limit_(limit) {}

  void push(std::int32_t token, bool completion);
  const std::unordered_map<std::int32_t, Counts>& counts() const { return counts_; }

 private:
  struct Entry {
    std::int32_t token;
    bool completion;
  };

  std::size_t limit_;
  std::deque<Entry> entries_;  // empty without a limit: nothing is ever taken out
  std::unordered_map<std::int32_t, Counts> counts_;
};

}  // namespace tpuserve::sampler
