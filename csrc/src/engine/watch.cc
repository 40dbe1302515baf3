#include "watch.h"

#include <algorithm>
#include <utility>

namespace tpuserve::engine {

Watch::Watch(std::vector<int> layers, std::size_t state_bytes)
    : layers_(std::move(layers)), state_bytes_(state_bytes) {}

void Watch::begin(std::size_t rows) {
  rows_ = rows;
  data_.assign(layers_.size() * rows * state_bytes_, 0);
}

void Watch::take(runtime::Chip& chip, int layer, runtime::MemoryRef states, std::size_t first_row) {
  const auto found = std::lower_bound(layers_.begin(), layers_.end(), layer);
  if (found == layers_.end() || *found != layer) return;
  const std::size_t bytes = rows_ * state_bytes_;
  const auto index = static_cast<std::size_t>(found - layers_.begin());
  chip.download(data_.data() + index * bytes, states.slice(first_row * state_bytes_, bytes), bytes);
}

}  // namespace tpuserve::engine
