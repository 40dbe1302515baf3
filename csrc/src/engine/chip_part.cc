#include "chip_part.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace tpuserve::engine {

// Counts the time of a scope as the chip's.
class ChipPart::Busy {
 public:
  explicit Busy(ChipPart& part) : part_(part) {}
  ~Busy() { part_.busy_ += std::chrono::steady_clock::now() - start_; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  ChipPart& part_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

namespace {

// What comes from the part before: nothing in the first part, and false when that part has failed.
bool receive(Link* link, std::optional<std::vector<std::uint8_t>>& states) {
  if (link == nullptr) return true;
  return link->take(states.emplace());
}

const std::vector<std::uint8_t>* pointer(const std::optional<std::vector<std::uint8_t>>& states) {
  return states.has_value() ? &*states : nullptr;
}

ChunkImages chunk_images(Context& context, const ImageSlot* slot) {
  if (slot == nullptr || slot->shown().empty()) return {};
  return {&*context.crossing, slot};
}

StepImages step_images(Context& context) {
  if (context.images.empty()) return {};
  return {&*context.crossing, &context.images};
}

}  // namespace

ChipPart::ChipPart(const runtime::Library& library, const std::vector<int>& chips,
                   runtime::BmodelSource source, PartRole role, bool deterministic)
    : source_(std::move(source)),
      role_(role),
      deterministic_(deterministic),
      chip_(runtime::Chip::open(library, chips)) {
  add_contexts(1);
  prefill_ = std::make_unique<Prefill>(*chip_, nets());
  if (nets().spec.vision.has_value()) vision_ = std::make_unique<Vision>(*chip_, nets());
  state_bytes_ = static_cast<std::size_t>(nets().spec.hidden_size) * size_bytes(nets().spec.dtype);
}

void ChipPart::add_contexts(std::size_t count) {
  while (contexts_.size() < count) {
    contexts_.push_back(std::make_unique<Context>(*chip_, source_, role_, deterministic_));
  }
}

std::uint64_t ChipPart::launches() const {
  std::uint64_t sum = 0;
  for (const auto& context : contexts_) sum += context->bmodel.launches();
  return sum;
}

std::vector<std::uint8_t> ChipPart::download(runtime::MemoryRef states, std::size_t bytes) {
  std::vector<std::uint8_t> result(bytes);
  chip_->download(result.data(), states, bytes);
  return result;
}

LayerTap ChipPart::tap(Watch* watch) {
  if (watch == nullptr) return {};
  return [this, watch](std::size_t layer, runtime::MemoryRef states) {
    watch->take(*chip_, nets().first_layer + static_cast<int>(layer), states, 0);
  };
}

LayerTap ChipPart::tap(const ContextBatch& batch) {
  const auto watched = [](const Watch* watch) { return watch != nullptr; };
  if (std::none_of(batch.watches.begin(), batch.watches.end(), watched)) return {};
  return [this, &batch](std::size_t layer, runtime::MemoryRef states) {
    for (std::size_t i = 0; i < batch.watches.size(); ++i) {
      if (batch.watches[i] == nullptr) continue;
      batch.watches[i]->take(*chip_, nets().first_layer + static_cast<int>(layer), states,
                             batch.decode.tokens[i].slot);
    }
  };
}

void ChipPart::prefill(const Place& place, const PrefillChunk& chunk, const HeadRows* row,
                       const Neighbours& neighbours, Watch* watch) {
  std::optional<std::vector<std::uint8_t>> received;
  if (!receive(neighbours.before, received)) return;
  const Busy busy(*this);
  Context& context = *contexts_[place.context];
  const runtime::MemoryRef states =
      prefill_->launch(context.bmodel, context.nets, slot(place), chunk, pointer(received),
                       chunk_images(context, images(place)), tap(watch));
  if (neighbours.behind != nullptr) {
    // Padding too: what is hidden behind a mask must still be a number.
    neighbours.behind->put(download(states, states.size_bytes));
  } else if (row != nullptr) {
    const auto last = static_cast<std::size_t>(chunk.count - 1);
    context.head->launch(states.slice(last * state_bytes_, state_bytes_), 1);
    context.head->read(*row, 0, 0);
  } else {
    // The next call uploads into memory that these launches read.
    sync();
  }
}

void ChipPart::decode(const std::vector<ContextBatch>& batches, const HeadRows& rows,
                      const Neighbours& neighbours) {
  // All launches first: on a chip they queue up and one wait covers them.
  for (const ContextBatch& batch : batches) {
    std::optional<std::vector<std::uint8_t>> received;
    if (!receive(neighbours.before, received)) return;
    const Busy busy(*this);
    Context& context = *contexts_[batch.context];
    const DecodeStates states = context.decode.launch(
        context.slots, batch.decode, pointer(received), step_images(context), tap(batch));
    if (neighbours.behind != nullptr) {
      const std::size_t bytes = static_cast<std::size_t>(states.rows) * state_bytes_;
      neighbours.behind->put(download(states.memory, bytes));
    } else {
      context.head->launch(states.memory, states.rows);
    }
  }
  if (neighbours.behind != nullptr) return;
  const Busy busy(*this);
  for (const ContextBatch& batch : batches) {
    for (std::size_t i = 0; i < batch.targets.size(); ++i) {
      contexts_[batch.context]->head->read(rows, batch.targets[i], batch.decode.tokens[i].slot);
    }
  }
}

void ChipPart::set_adapter_weight(const std::string& path, const std::vector<std::uint8_t>& data) {
  for (const runtime::AdapterWeight& weight : adapter_weights()) {
    if (weight.path != path) continue;
    std::vector<std::uint8_t> pages(weight.memory.size_bytes, 0);
    std::copy(data.begin(), data.end(), pages.begin());
    chip_->upload(weight.memory, pages.data(), pages.size());
  }
}

void ChipPart::copy_prefix(const Place& source, const Place& target, int tokens) {
  slot(target).copy_prefix(*chip_, slot(source), tokens);
  if (const ImageSlot* shown = images(source)) {
    contexts_[target.context]->images[target.row].copy(*chip_, *shown);
  }
  sync();
}

void ChipPart::encode_image(const Place& place, const Image& image, std::size_t index) {
  const Busy busy(*this);
  Context& context = *contexts_[place.context];
  vision_->encode(context.bmodel, context.nets, image, context.images[place.row], index);
}

void ChipPart::show_images(const Place& place, const std::vector<int>& positions) {
  contexts_[place.context]->images[place.row].show(positions);
}

const ImageSlot* ChipPart::images(const Place& place) const {
  const Context& context = *contexts_[place.context];
  return context.images.empty() ? nullptr : &context.images[place.row];
}

std::size_t ChipPart::layers_before(int rows) const {
  return static_cast<std::size_t>(nets().first_layer) * 2 * static_cast<std::size_t>(rows) *
         row_bytes();
}

void ChipPart::save(const Place& place, std::uint8_t* data, int rows) const {
  slot(place).save(*chip_, data + layers_before(rows), rows);
}

void ChipPart::restore(const Place& place, const std::uint8_t* data, int rows, int tokens) {
  slot(place).restore(*chip_, data + layers_before(rows), tokens, static_cast<std::size_t>(rows));
  sync();
}

void ChipPart::wipe(const Place& place) {
  slot(place).zero(*chip_);
  Context& context = *contexts_[place.context];
  if (!context.images.empty()) context.images[place.row].wipe(*chip_);
  sync();
}

}  // namespace tpuserve::engine
