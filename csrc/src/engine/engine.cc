#include "tpuserve/engine/engine.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "context.h"
#include "prefill.h"
#include "tpuserve/errors.h"

namespace tpuserve::engine {

// What lives on the chip. Members are destroyed from the last to the first: the chip goes last.
struct Engine::Resident {
  // A slot is row `row` of a context.
  struct Place {
    std::size_t context;
    std::size_t row;
  };

  std::shared_ptr<runtime::Library> library;
  std::unique_ptr<runtime::Chip> chip;
  std::vector<std::unique_ptr<Context>> contexts;
  std::unique_ptr<Prefill> prefill;

  Resident() = default;
  // After a launch that failed, those before it may still run: in memory that is about to be freed.
  ~Resident() {
    try {
      if (chip != nullptr) chip->sync();
    } catch (const CoreError&) {
      // The chip does not answer; there is nothing to wait for.
    }
  }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  Place place(int slot) const {
    const auto index = static_cast<std::size_t>(slot);
    const std::size_t rows = contexts.front()->slots.size();
    return {index / rows, index % rows};
  }
  Context& context(int slot) const { return *contexts[place(slot).context]; }
  Slot& slot(int slot) const { return context(slot).slots[place(slot).row]; }
};

namespace {

[[noreturn]] void refuse(const std::string& text) { throw std::invalid_argument(text); }

int only_chip(const std::vector<int>& chips) {
  if (chips.size() != 1) {
    refuse(std::to_string(chips.size()) + " chips given: one bmodel runs on exactly 1 chip");
  }
  return chips.front();
}

// A batch keeps the KV of all of its slots in one context; nets for one sequence get a context
// each.
int contexts_for(int slots, const ModelSpec& spec, const std::string& path) {
  if (spec.decode_rows == 1) return slots;
  if (slots <= spec.decode_rows) return 1;
  refuse("slots = " + std::to_string(slots) + ": " + path + " was compiled for a batch of " +
         std::to_string(spec.decode_rows));
}

}  // namespace

Engine::Engine(std::shared_ptr<runtime::Library> library, const std::string& path,
               const std::vector<int>& chips, const EngineOptions& options)
    : slots_(options.slots), resident_(std::make_unique<Resident>()) {
  if (slots_ < 1) refuse("slots = " + std::to_string(slots_) + ": expected at least 1");
  const int chip = only_chip(chips);
  Resident& r = *resident_;
  r.library = std::move(library);
  r.chip = runtime::Chip::open(*r.library, chip);
  const auto add_context = [&] {
    r.contexts.push_back(std::make_unique<Context>(*r.chip, path, options.deterministic));
  };
  add_context();
  spec_ = r.contexts.front()->nets.spec;
  nets_ = r.contexts.front()->bmodel.nets();
  const int contexts = contexts_for(slots_, spec_, path);
  while (static_cast<int>(r.contexts.size()) < contexts) add_context();
  r.prefill = std::make_unique<Prefill>(*r.chip, r.contexts.front()->nets);
}

Engine::~Engine() = default;

Engine::Resident& Engine::resident() const {
  if (resident_ == nullptr) throw CoreError("the engine is closed");
  return *resident_;
}

void Engine::close() { resident_.reset(); }

std::uint64_t Engine::launches() const {
  std::uint64_t sum = 0;
  for (const auto& context : resident().contexts) sum += context->bmodel.launches();
  return sum;
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

std::size_t Engine::kv_row_bytes() const {
  return resident().contexts.front()->slots.front().kv.row_bytes();
}

int Engine::length(int slot) const {
  const Resident& r = resident();
  check_slot(slot);
  return r.slot(slot).length;
}

void Engine::prefill(int slot, const std::int32_t* ids, std::size_t count, int position,
                     const HeadRows* row) {
  Resident& r = resident();
  check_slot(slot);
  Context& context = r.context(slot);
  Slot& target = r.slot(slot);
  if (count < 1 || count > static_cast<std::size_t>(spec_.prefill_chunk)) {
    refuse(std::to_string(count) + " ids: one prefill takes 1 to " +
           std::to_string(spec_.prefill_chunk));
  }
  const int highest = std::min(target.length, spec_.max_history);
  if (position < 0 || position > highest) {
    refuse("position " + std::to_string(position) + ": expected 0 to " + std::to_string(highest) +
           (spec_.history() ? "" : " (the bmodel has no prefill with history)"));
  }
  const int end = position + static_cast<int>(count);
  if (end > spec_.max_prompt_length) {
    refuse("prefill up to token " + std::to_string(end) + ": prompts have at most " +
           std::to_string(spec_.max_prompt_length) + " tokens");
  }
  check_ids(ids, count);

  target.length = position;
  const runtime::MemoryRef state = r.prefill->launch(context.bmodel, context.nets, target.kv, ids,
                                                     static_cast<int>(count), position);
  if (row != nullptr) {
    context.head.launch(state, 1);
    context.head.read(*row, 0, 0);
  } else {
    // The next call uploads into memory that these launches read.
    r.chip->sync();
  }
  target.length = end;
}

void Engine::check_decode(const std::vector<int>& slots) const {
  std::vector<bool> taken(static_cast<std::size_t>(slots_));
  for (const int slot : slots) {
    check_slot(slot);
    const auto index = static_cast<std::size_t>(slot);
    if (taken[index]) refuse("slot " + std::to_string(slot) + " is given twice");
    taken[index] = true;
    const int length = resident_->slot(slot).length;
    if (length < 1) refuse("slot " + std::to_string(slot) + " holds no tokens: prefill it first");
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

  std::vector<std::vector<DecodeToken>> tokens(r.contexts.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const Resident::Place place = r.place(slots[i]);
    tokens[place.context].push_back({place.row, ids[i]});
  }
  // All launches first: on a chip they queue up and one wait covers them.
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].empty()) continue;
    Context& context = *r.contexts[i];
    const DecodeStates states = context.decode.launch(context.slots, tokens[i]);
    context.head.launch(states.memory, states.rows);
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    r.context(slots[i]).head.read(rows, i, r.place(slots[i]).row);
    ++r.slot(slots[i]).length;
  }
}

void Engine::copy_prefix(int source, int target, int tokens) {
  Resident& r = resident();
  check_slot(source);
  check_slot(target);
  const Slot& from = r.slot(source);
  Slot& to = r.slot(target);
  if (tokens < 0 || tokens > from.length) {
    refuse("tokens = " + std::to_string(tokens) + ": slot " + std::to_string(source) + " holds " +
           std::to_string(from.length));
  }
  if (source != target && tokens > 0) {
    to.length = 0;
    to.kv.copy_prefix(*r.chip, from.kv, tokens);
    r.chip->sync();
  }
  to.length = tokens;
}

void Engine::save(int slot, std::uint8_t* data) const {
  const Resident& r = resident();
  check_slot(slot);
  const Slot& source = r.slot(slot);
  source.kv.save(*r.chip, data, source.length);
}

void Engine::restore(int slot, const std::uint8_t* data, int rows, int tokens) {
  Resident& r = resident();
  check_slot(slot);
  const int most = std::min(rows, spec_.context_length);
  if (tokens < 0 || tokens > most) {
    refuse("tokens = " + std::to_string(tokens) + ": expected 0 to " + std::to_string(most));
  }
  Slot& target = r.slot(slot);
  target.length = 0;
  if (tokens > 0) {
    target.kv.restore(*r.chip, data, tokens, static_cast<std::size_t>(rows));
    r.chip->sync();
  }
  target.length = tokens;
}

void Engine::free(int slot) {
  Resident& r = resident();
  check_slot(slot);
  r.slot(slot).length = 0;
}

}  // namespace tpuserve::engine
