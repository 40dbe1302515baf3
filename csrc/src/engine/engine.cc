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
  std::shared_ptr<runtime::Library> library;
  std::unique_ptr<runtime::Chip> chip;
  std::vector<std::unique_ptr<Context>> contexts;
  std::unique_ptr<Prefill> prefill;
};

namespace {

[[noreturn]] void refuse(const std::string& text) { throw std::invalid_argument(text); }

int only_chip(const std::vector<int>& chips) {
  if (chips.size() != 1) {
    refuse(std::to_string(chips.size()) + " chips given: one bmodel runs on exactly 1 chip");
  }
  return chips.front();
}

}  // namespace

Engine::Engine(std::shared_ptr<runtime::Library> library, const std::string& path,
               const std::vector<int>& chips, int slots)
    : slots_(slots), resident_(std::make_unique<Resident>()) {
  if (slots < 1) refuse("slots = " + std::to_string(slots) + ": expected at least 1");
  const int chip = only_chip(chips);
  Resident& r = *resident_;
  r.library = std::move(library);
  r.chip = runtime::Chip::open(*r.library, chip);
  for (int slot = 0; slot < slots; ++slot) {
    r.contexts.push_back(std::make_unique<Context>(*r.chip, path));
  }
  r.prefill = std::make_unique<Prefill>(*r.chip, r.contexts.front()->nets);
  spec_ = r.contexts.front()->nets.spec;
  nets_ = r.contexts.front()->bmodel.nets();
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

int Engine::length(int slot) const {
  const Resident& r = resident();
  check_slot(slot);
  return r.contexts[static_cast<std::size_t>(slot)]->length;
}

void Engine::prefill(int slot, const std::int32_t* ids, std::size_t count, int position,
                     const HeadRows* row) {
  Resident& r = resident();
  check_slot(slot);
  Context& context = *r.contexts[static_cast<std::size_t>(slot)];
  if (count < 1 || count > static_cast<std::size_t>(spec_.prefill_chunk)) {
    refuse(std::to_string(count) + " ids: one prefill takes 1 to " +
           std::to_string(spec_.prefill_chunk));
  }
  const int highest = std::min(context.length, spec_.max_history);
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

  context.length = position;
  const runtime::MemoryRef state = r.prefill->launch(context.bmodel, context.nets, context.kv, ids,
                                                     static_cast<int>(count), position);
  if (row != nullptr) {
    context.head.launch(state);
    context.head.read(*row, 0);
  } else {
    // The next call uploads into memory that these launches read.
    r.chip->sync();
  }
  context.length = end;
}

void Engine::decode(const std::vector<int>& slots, const std::int32_t* ids, const HeadRows& rows) {
  Resident& r = resident();
  std::vector<bool> taken(static_cast<std::size_t>(slots_));
  for (const int slot : slots) {
    check_slot(slot);
    const auto index = static_cast<std::size_t>(slot);
    if (taken[index]) refuse("slot " + std::to_string(slot) + " is given twice");
    taken[index] = true;
    const int length = r.contexts[index]->length;
    if (length < 1) refuse("slot " + std::to_string(slot) + " holds no tokens: prefill it first");
    if (length >= spec_.context_length) {
      refuse("slot " + std::to_string(slot) + " is full: it holds " + std::to_string(length) +
             " of " + std::to_string(spec_.context_length) + " tokens");
    }
  }
  check_ids(ids, slots.size());

  // All launches first: on a chip they queue up and one wait covers them.
  for (std::size_t i = 0; i < slots.size(); ++i) {
    Context& context = *r.contexts[static_cast<std::size_t>(slots[i])];
    context.head.launch(context.decode.launch(context.kv, ids[i], context.length));
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    Context& context = *r.contexts[static_cast<std::size_t>(slots[i])];
    context.head.read(rows, i);
    ++context.length;
  }
}

void Engine::copy_prefix(int source, int target, int tokens) {
  Resident& r = resident();
  check_slot(source);
  check_slot(target);
  Context& from = *r.contexts[static_cast<std::size_t>(source)];
  Context& to = *r.contexts[static_cast<std::size_t>(target)];
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

void Engine::free(int slot) {
  Resident& r = resident();
  check_slot(slot);
  r.contexts[static_cast<std::size_t>(slot)]->length = 0;
}

}  // namespace tpuserve::engine
