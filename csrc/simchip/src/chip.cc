#include "chip.h"

#include <algorithm>

namespace tpuserve::simchip {

namespace {

bool overlap(const Use& use, std::uint64_t address, std::uint64_t bytes) {
  return use.address < address + bytes && address < use.address + use.bytes;
}

}  // namespace

Chip::Chip(const Profile& profile)
    : memory(profile.memory_bytes),
      profile_(profile),
      busy_until_(Clock::now()),
      measured_since_(busy_until_) {}

const Fault* Chip::count_launch(const std::string& net) {
  ++launches_;
  const std::uint64_t of_net = ++launches_of_net_[net];
  for (const Fault& fault : profile_.faults) {
    if (fault.token >= 0) continue;
    const bool now =
        fault.net.empty() ? fault.launch == launches_ : fault.net == net && fault.launch == of_net;
    if (now) return &fault;
  }
  return nullptr;
}

const Fault* Chip::fault_of_token(std::int32_t token) const {
  for (const Fault& fault : profile_.faults) {
    if (fault.token >= 0 && fault.token == token) return &fault;
  }
  return nullptr;
}

void Chip::add_time(double cost_us) {
  const auto cost = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double, std::micro>(cost_us * profile_.scale));
  if (cost.count() == 0) return;
  busy_until_ = std::max(busy_until_, Clock::now()) + cost;
  busy_ += cost;
}

void Chip::queue(const std::vector<Use>& uses, double cost_us) {
  Pending& pending = pending_[std::this_thread::get_id()];
  pending.uses.insert(pending.uses.end(), uses.begin(), uses.end());
  add_time(cost_us);
}

void Chip::queue_copy(std::uint64_t bytes) {
  double cost_us = profile_.copy_us;
  if (profile_.copy_gb_per_s > 0) {
    cost_us += static_cast<double>(bytes) / (profile_.copy_gb_per_s * 1e3);
  }
  add_time(cost_us);
}

void Chip::queue_hang(double seconds) {
  Pending& pending = pending_[std::this_thread::get_id()];
  pending.hangs = true;
  pending.hang_seconds = seconds;
}

bool Chip::in_use(std::uint64_t address, std::uint64_t bytes, bool writes_only) const {
  if (faulty) return false;  // nothing runs any more
  for (const auto& [thread, pending] : pending_) {
    for (const Use& use : pending.uses) {
      if ((use.write || !writes_only) && overlap(use, address, bytes)) return true;
    }
  }
  return false;
}

bool Chip::has_pending(std::thread::id thread) const { return pending_.count(thread) != 0; }

Chip::Wait Chip::begin_wait() {
  Wait wait{busy_until_};
  const auto mine = pending_.find(std::this_thread::get_id());
  if (mine == pending_.end()) return wait;
  wait.hangs = mine->second.hangs;
  wait.hang_seconds = mine->second.hang_seconds;
  pending_.erase(mine);
  return wait;
}

int Chip::utilisation_percent() {
  const Clock::time_point now = Clock::now();
  // What is queued beyond this moment has not been worked on yet.
  const Clock::duration ahead = std::max(busy_until_ - now, Clock::duration::zero());
  const Clock::duration span = now - measured_since_;
  const Clock::duration done = std::max(busy_ - ahead, Clock::duration::zero());
  measured_since_ = now;
  busy_ = std::min(busy_, ahead);
  if (span.count() <= 0) return 0;
  return static_cast<int>(std::min<std::int64_t>(100, 100 * done.count() / span.count()));
}

}  // namespace tpuserve::simchip
