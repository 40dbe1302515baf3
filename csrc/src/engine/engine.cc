#include "tpuserve/engine/engine.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "chip_part.h"
#include "embedding_table.h"
#include "lanes.h"
#include "link.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

// What lives on the chips. Members are destroyed from the last to the first.
struct Engine::Resident {
  std::shared_ptr<runtime::Library> library;
  std::optional<EmbeddingTable> table;  // in place of embedding nets
  Lanes lanes;
  std::vector<std::unique_ptr<ChipPart>> parts;
  std::vector<Link> links;   // links[i]: from part i to part i + 1
  std::vector<int> lengths;  // tokens in each slot
  std::size_t contexts = 0;
  std::map<int, Watch> watches;  // by slot

  Resident(std::shared_ptr<runtime::Library> shared_library, std::size_t chips)
      : library(std::move(shared_library)), lanes(chips), parts(chips), links(chips - 1) {}
  // After a launch that failed, those before it may still run: in memory that is about to be freed.
  ~Resident() {
    try {
      lanes.run([this](std::size_t i) {
        if (parts[i] != nullptr) parts[i]->sync();
      });
    } catch (const CoreError&) {
      // The chip does not answer; there is nothing to wait for.
    }
  }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  // Slots that follow each other are in different contexts: what runs together is spread over them.
  Place place(int slot) const {
    const auto index = static_cast<std::size_t>(slot);
    return {index % contexts, index / contexts};
  }
  // Null for a slot that nobody watches.
  Watch* watch(int slot) {
    const auto found = watches.find(slot);
    return found == watches.end() ? nullptr : &found->second;
  }
  int& length(int slot) { return lengths[static_cast<std::size_t>(slot)]; }
  // Of a context's slots, those past the last that the engine has included.
  std::vector<int> lengths_in(std::size_t context) const {
    std::vector<int> result;
    const auto rows = static_cast<std::size_t>(parts.front()->nets().spec.decode_rows);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t slot = row * contexts + context;
      result.push_back(slot < lengths.size() ? lengths[slot] : 0);
    }
    return result;
  }

  // Every part does `work` on its chip at the same time. The parts behind one that fails give up.
  void run(const std::function<void(ChipPart&, const Neighbours&)>& work) {
    for (Link& link : links) link.clear();
    lanes.run([&](std::size_t i) {
      const Neighbours neighbours{i > 0 ? &links[i - 1] : nullptr,
                                  i < links.size() ? &links[i] : nullptr};
      try {
        work(*parts[i], neighbours);
      } catch (...) {
        if (neighbours.behind != nullptr) neighbours.behind->fail();
        throw;
      }
    });
  }
};

namespace {

[[noreturn]] void refuse(const std::string& text) { throw std::invalid_argument(text); }

std::string counted(std::size_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// The chips of each part.
std::vector<std::vector<int>> chips_of_parts(const std::vector<runtime::BmodelSource>& bmodels,
                                             const std::vector<int>& chips) {
  std::vector<std::vector<int>> parts;
  std::size_t needed = 0;
  for (const runtime::BmodelSource& bmodel : bmodels) {
    const std::size_t count = runtime::chips_of_bmodel(bmodel);
    parts.emplace_back();
    for (std::size_t i = needed; i < std::min(needed + count, chips.size()); ++i) {
      parts.back().push_back(chips[i]);
    }
    needed += count;
  }
  if (bmodels.empty() || needed != chips.size()) {
    refuse(counted(chips.size(), "chip") + " given: a model of " + counted(bmodels.size(), "part") +
           " runs on exactly " +
           (needed == bmodels.size() ? std::string("as many chips") : counted(needed, "chip")));
  }
  for (auto chip = chips.begin(); chip != chips.end(); ++chip) {
    if (std::find(chips.begin(), chip, *chip) != chip) {
      refuse("chip " + std::to_string(*chip) + " is given twice");
    }
  }
  return parts;
}

// Nets for one sequence get a context for each slot. A batch keeps the KV of all of its slots in
// one context: more than one is of use where several chips work on different ones.
std::size_t contexts_for(int slots, const ModelSpec& spec, const ChipPart& part,
                         std::size_t chips) {
  const int rows = spec.decode_rows;
  if (rows == 1) return static_cast<std::size_t>(slots);
  const auto contexts = static_cast<std::size_t>((slots + rows - 1) / rows);
  if (contexts <= chips) return contexts;
  refuse("slots = " + std::to_string(slots) + ": " + part.name() + " was compiled for a batch of " +
         std::to_string(rows) + (chips == 1 ? "" : ", times " + std::to_string(chips) + " chips"));
}

}  // namespace

Engine::Engine(std::shared_ptr<runtime::Library> library,
               const std::vector<runtime::BmodelSource>& bmodels, const std::vector<int>& chips,
               const EngineOptions& options)
    : slots_(options.slots) {
  if (slots_ < 1) refuse("slots = " + std::to_string(slots_) + ": expected at least 1");
  const std::vector<std::vector<int>> places = chips_of_parts(bmodels, chips);
  resident_ = std::make_unique<Resident>(std::move(library), places.size());
  Resident& r = *resident_;
  if (!options.embedding.empty()) r.table.emplace(options.embedding);
  r.lanes.run([&](std::size_t i) {
    const EmbeddingTable* table = i == 0 && r.table.has_value() ? &*r.table : nullptr;
    const PartRole role{i == 0, i + 1 == places.size(), table, options.greedy};
    r.parts[i] =
        std::make_unique<ChipPart>(*r.library, places[i], bmodels[i], role, options.deterministic);
  });
  std::vector<const ModelNets*> nets;
  for (const auto& part : r.parts) {
    nets.push_back(&part->nets());
    nets_.insert(nets_.end(), part->all_nets().begin(), part->all_nets().end());
  }
  spec_ = join(nets);
  if (r.table.has_value()) spec_.embedding_rows = r.table->rows_for(spec_);
  // Where chips share a layer, the nets of each tell of its own heads.
  const auto sharing = static_cast<int>(r.parts.front()->chips());
  spec_.kv_heads *= sharing;
  spec_.kv_bytes_per_slot *= static_cast<std::uint64_t>(sharing);
  r.lengths.resize(static_cast<std::size_t>(slots_));
  r.contexts = contexts_for(slots_, spec_, *r.parts.front(), places.size());
  r.lanes.run([&](std::size_t i) { r.parts[i]->add_contexts(r.contexts); });
}

Engine::~Engine() = default;

Engine::Resident& Engine::resident() const {
  if (resident_ == nullptr) throw CoreError("the engine is closed");
  return *resident_;
}

void Engine::close() { resident_.reset(); }

std::uint64_t Engine::launches() const {
  std::uint64_t sum = 0;
  for (const auto& part : resident().parts) sum += part->launches();
  return sum;
}

int Engine::groups() const { return static_cast<int>(resident().contexts); }

std::vector<double> Engine::busy_s() const {
  std::vector<double> result;
  for (const auto& part : resident().parts) {
    result.insert(result.end(), part->chips(), part->busy_s());
  }
  return result;
}

void Engine::check_slot(int slot) const {
  if (slot < 0 || slot >= slots_) {
    refuse("slot " + std::to_string(slot) + ": expected 0 to " + std::to_string(slots_ - 1));
  }
}

void Engine::check_ids(const std::int32_t* ids, std::size_t count) const {
  // The chip answers an id outside of the embedding with zeros, not with an error.
  const int rows = spec_.embedding_rows;
  for (std::size_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && (rows == 0 || ids[i] < rows)) continue;
    refuse("ids[" + std::to_string(i) + "] = " + std::to_string(ids[i]) + ": expected 0 to " +
           (rows > 0 ? std::to_string(rows - 1) : "the end of the vocabulary"));
  }
}

std::size_t Engine::kv_row_bytes() const { return resident().parts.front()->row_bytes(); }

int Engine::length(int slot) const {
  Resident& r = resident();
  check_slot(slot);
  return r.length(slot);
}

void Engine::prefill(int slot, const std::int32_t* ids, std::size_t count, int position,
                     const HeadRows* row) {
  Resident& r = resident();
  check_slot(slot);
  int& length = r.length(slot);
  const int most = position > 0 ? spec_.history_chunk : spec_.prefill_chunk;
  const int highest = std::min(length, spec_.max_history);
  if (position < 0 || position > highest) {
    refuse("position " + std::to_string(position) + ": expected 0 to " + std::to_string(highest) +
           (spec_.history() ? "" : " (the bmodel has no prefill with history)"));
  }
  if (count < 1 || count > static_cast<std::size_t>(most)) {
    refuse(std::to_string(count) + " ids: one prefill " +
           (position > 0 ? "behind resident rows " : "") + "takes 1 to " + std::to_string(most));
  }
  const int end = position + static_cast<int>(count);
  if (end > spec_.max_prompt_length) {
    refuse("prefill up to token " + std::to_string(end) + ": prompts have at most " +
           std::to_string(spec_.max_prompt_length) + " tokens");
  }
  check_ids(ids, count);

  length = position;
  Watch* watch = r.watch(slot);
  if (watch != nullptr) watch->begin(count);
  const PrefillChunk chunk{ids, static_cast<int>(count), position};
  r.run([&](ChipPart& part, const Neighbours& neighbours) {
    part.prefill(r.place(slot), chunk, row, neighbours, watch);
  });
  length = end;
}

void Engine::check_images_lie_before(int slot, int length) const {
  const ImageSlot* images = resident_->parts.front()->images(resident_->place(slot));
  if (images == nullptr || images->shown().empty()) return;
  const int last = images->shown().back().begin;
  if (last < length) return;
  refuse("slot " + std::to_string(slot) + " shows an image at token " + std::to_string(last) +
         ": prefill up to it before decoding");
}

void Engine::check_decode(const std::vector<int>& slots) const {
  std::vector<bool> taken(static_cast<std::size_t>(slots_));
  for (const int slot : slots) {
    check_slot(slot);
    const auto index = static_cast<std::size_t>(slot);
    if (taken[index]) refuse("slot " + std::to_string(slot) + " is given twice");
    taken[index] = true;
    const int length = resident_->length(slot);
    if (length < 1) refuse("slot " + std::to_string(slot) + " holds no tokens: prefill it first");
    check_images_lie_before(slot, length);
    if (length >= spec_.context_length) {
      refuse("slot " + std::to_string(slot) + " is full: it holds " + std::to_string(length) +
             " of " + std::to_string(spec_.context_length) + " tokens");
    }
  }
}

void Engine::decode(const std::vector<int>& slots, const std::int32_t* ids, const HeadRows& rows) {
  Resident& r = resident();
  check_decode(slots);
  check_ids(ids, slots.size());

  std::vector<ContextBatch> batches;
  for (std::size_t context = 0; context < r.contexts; ++context) {
    ContextBatch batch{context, {r.lengths_in(context), {}}, {}, {}};
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const Place place = r.place(slots[i]);
      if (place.context != context) continue;
      batch.decode.tokens.push_back({place.row, ids[i]});
      batch.targets.push_back(i);
      batch.watches.push_back(r.watch(slots[i]));
      if (batch.watches.back() != nullptr) batch.watches.back()->begin(1);
    }
    if (!batch.targets.empty()) batches.push_back(std::move(batch));
  }
  r.run([&](ChipPart& part, const Neighbours& neighbours) {
    part.decode(batches, rows, neighbours);
  });
  for (const int slot : slots) ++r.length(slot);
}

void Engine::copy_prefix(int source, int target, int tokens) {
  Resident& r = resident();
  check_slot(source);
  check_slot(target);
  if (tokens < 0 || tokens > r.length(source)) {
    refuse("tokens = " + std::to_string(tokens) + ": slot " + std::to_string(source) + " holds " +
           std::to_string(r.length(source)));
  }
  if (source != target && tokens > 0) {
    r.length(target) = 0;
    r.run([&](ChipPart& part, const Neighbours&) {
      part.copy_prefix(r.place(source), r.place(target), tokens);
    });
  }
  r.length(target) = tokens;
}

void Engine::save(int slot, std::uint8_t* data) const {
  Resident& r = resident();
  check_slot(slot);
  r.run([&](ChipPart& part, const Neighbours&) { part.save(r.place(slot), data, r.length(slot)); });
}

void Engine::restore(int slot, const std::uint8_t* data, int rows, int tokens) {
  Resident& r = resident();
  check_slot(slot);
  const int most = std::min(rows, spec_.context_length);
  if (tokens < 0 || tokens > most) {
    refuse("tokens = " + std::to_string(tokens) + ": expected 0 to " + std::to_string(most));
  }
  r.length(slot) = 0;
  if (tokens > 0) {
    r.run([&](ChipPart& part, const Neighbours&) {
      part.restore(r.place(slot), data, rows, tokens);
    });
  }
  r.length(slot) = tokens;
}

void Engine::wipe(int slot) {
  Resident& r = resident();
  check_slot(slot);
  r.length(slot) = 0;
  r.run([&](ChipPart& part, const Neighbours&) { part.wipe(r.place(slot)); });
}

void Engine::check_images(int slot) const {
  check_slot(slot);
  if (!spec_.vision.has_value()) refuse("the model does not look at images");
}

int Engine::encoded_images(int slot) const {
  const Resident& r = resident();
  check_images(slot);
  return static_cast<int>(r.parts.front()->images(r.place(slot))->encoded());
}

void Engine::encode_image(int slot, int index, const float* pixels, int ratio) {
  Resident& r = resident();
  const int encoded = encoded_images(slot);
  const int highest = std::min(encoded, spec_.vision->max_images - 1);
  if (index < 0 || index > highest) {
    refuse("image " + std::to_string(index) + ": expected 0 to " + std::to_string(highest) +
           "; slot " + std::to_string(slot) + " has " + std::to_string(encoded) + " of at most " +
           std::to_string(spec_.vision->max_images));
  }
  const int tiles = spec_.vision->tiles_of_ratio(ratio);
  if (tiles == 0) {
    refuse("aspect ratio " + std::to_string(ratio) + ": expected 1 to " +
           std::to_string(spec_.vision->ratios()));
  }
  const Image image{pixels, tiles, ratio};
  r.run([&](ChipPart& part, const Neighbours&) {
    part.encode_image(r.place(slot), image, static_cast<std::size_t>(index));
  });
}

void Engine::show_images(int slot, const std::vector<int>& positions) {
  Resident& r = resident();
  const int encoded = encoded_images(slot);
  if (positions.size() > static_cast<std::size_t>(encoded)) {
    refuse(std::to_string(positions.size()) + " images to show: slot " + std::to_string(slot) +
           " has " + std::to_string(encoded));
  }
  int lowest = 0;
  for (const int position : positions) {
    if (position < lowest || position >= spec_.context_length) {
      refuse("image at token " + std::to_string(position) + ": expected " + std::to_string(lowest) +
             " to " + std::to_string(spec_.context_length - 1) + ", in ascending order");
    }
    lowest = position + 1;
  }
  r.run([&](ChipPart& part, const Neighbours&) { part.show_images(r.place(slot), positions); });
}

void Engine::watch(int slot, const std::vector<int>& layers) {
  Resident& r = resident();
  check_slot(slot);
  int previous = -1;
  for (const int layer : layers) {
    if (layer <= previous || layer >= spec_.layers) {
      refuse("layer " + std::to_string(layer) + ": expected ascending numbers from 0 to " +
             std::to_string(spec_.layers - 1));
    }
    previous = layer;
  }
  r.watches.erase(slot);
  if (layers.empty()) return;
  const std::size_t bytes = static_cast<std::size_t>(spec_.hidden_size) * size_bytes(spec_.dtype);
  r.watches.emplace(slot, Watch(layers, bytes));
}

WatchedStates Engine::watched(int slot) const {
  Resident& r = resident();
  check_slot(slot);
  const Watch* watch = r.watch(slot);
  if (watch == nullptr) refuse("slot " + std::to_string(slot) + " is not watched");
  return {watch->data().data(), watch->layers(), watch->rows(), watch->state_bytes()};
}

std::map<std::string, std::size_t> Engine::adapter_weights() const {
  std::map<std::string, std::size_t> result;
  for (const auto& part : resident().parts) {
    for (const runtime::AdapterWeight& weight : part->adapter_weights()) {
      result[weight.path] = weight.memory.size_bytes;
    }
  }
  return result;
}

void Engine::set_adapter_weight(const std::string& path, const std::vector<std::uint8_t>& data) {
  Resident& r = resident();
  const std::map<std::string, std::size_t> known = adapter_weights();
  const auto found = known.find(path);
  if (found == known.end()) refuse("the bmodel has no adapter weight " + path);
  if (data.size() > found->second) {
    refuse(path + ": " + std::to_string(data.size()) + " bytes, expected at most " +
           std::to_string(found->second));
  }
  std::fill(r.lengths.begin(), r.lengths.end(), 0);
  r.run([&](ChipPart& part, const Neighbours&) { part.set_adapter_weight(path, data); });
}

void Engine::free(int slot) {
  Resident& r = resident();
  check_slot(slot);
  r.length(slot) = 0;
}

}  // namespace tpuserve::engine
