#include "tpuserve/sampler/token_window.h"

namespace tpuserve::sampler {

void TokenWindow::push(std::int32_t token, bool completion) {
  Counts& counts = counts_[token];
  counts.all += 1;
  counts.completion += completion ? 1 : 0;
  if (limit_ == 0) return;
  entries_.push_back({token, completion});
  if (entries_.size() <= limit_) return;
  const Entry oldest = entries_.front();
  entries_.pop_front();
  const auto found = counts_.find(oldest.token);
  found->second.all -= 1;
  found->second.completion -= oldest.completion ? 1 : 0;
  if (found->second.all == 0) counts_.erase(found);
}

}  // namespace tpuserve::sampler
