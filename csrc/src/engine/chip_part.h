#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "context.h"
#include "link.h"
#include "prefill.h"
#include "tpuserve/engine/engine.h"
#include "tpuserve/runtime/chip.h"
#include "tpuserve/runtime/library.h"
#include "vision.h"
#include "watch.h"

namespace tpuserve::engine {

// A slot of a part: row `row` of a context.
struct Place {
  std::size_t context;
  std::size_t row;
};

// A decode step of one context, and which row of the results each of its tokens gets.
struct ContextBatch {
  std::size_t context;
  DecodeBatch decode;
  std::vector<std::size_t> targets;
  std::vector<Watch*> watches;  // of each token, null where nobody watches
};

// The neighbours' ends of the links to them; null at the ends of the model.
struct Neighbours {
  Link* before;
  Link* behind;
};

// A range of a model's layers on one chip, or on several that share each layer: its bmodel, its
// contexts and the KV rows of its layers.
// All calls come from one thread, the constructor's and the destructor's sync() included.
class ChipPart {
 public:
  ChipPart(const runtime::Library& library, const std::vector<int>& chips,
           runtime::BmodelSource source, PartRole role, bool deterministic);
  ChipPart(const ChipPart&) = delete;
  ChipPart& operator=(const ChipPart&) = delete;

  const std::string& name() const { return source_.name; }
  const ModelNets& nets() const { return contexts_.front()->nets; }
  const std::vector<runtime::Net>& all_nets() const { return contexts_.front()->bmodel.nets(); }
  std::size_t chips() const { return chip_->count(); }
  // Of a saved row, in one layer, of K or of V alone.
  std::size_t row_bytes() const { return chips() * contexts_.front()->slots.front().row_bytes(); }
  std::uint64_t launches() const;
  // Seconds in which the chip had work: from hidden states or ids to the results or the next chip.
  double busy_s() const { return std::chrono::duration<double>(busy_).count(); }

  // Opens contexts up to `count`; they share the weights.
  void add_contexts(std::size_t count);

  // Fills the rows of a chunk. With `row`, and in the last part, reads the head of its last token.
  void prefill(const Place& place, const PrefillChunk& chunk, const HeadRows* row,
               const Neighbours& neighbours, Watch* watch);
  // Runs the batches one behind the other, each as soon as the part before has done it; the last
  // part reads its results into `rows`.
  void decode(const std::vector<ContextBatch>& batches, const HeadRows& rows,
              const Neighbours& neighbours);
  void copy_prefix(const Place& source, const Place& target, int tokens);
  // The part's layers of [layers, 2, rows, row_bytes] of the whole model.
  void save(const Place& place, std::uint8_t* data, int rows) const;
  void restore(const Place& place, const std::uint8_t* data, int rows, int tokens);
  void wipe(const Place& place);
  // Of a model that looks at images: see Engine.
  void encode_image(const Place& place, const Image& image, std::size_t index);
  void show_images(const Place& place, const std::vector<int>& positions);
  const ImageSlot* images(const Place& place) const;
  std::vector<runtime::AdapterWeight> adapter_weights() const {
    return contexts_.front()->bmodel.adapter_weights();
  }
  // Fills a weight of this part; the contexts share it. Does nothing for another part's.
  void set_adapter_weight(const std::string& path, const std::vector<std::uint8_t>& data);
  // Waits for everything that was sent to the chip.
  void sync() { chip_->sync(); }

 private:
  class Busy;

  KvRows& slot(const Place& place) const { return contexts_[place.context]->slots[place.row]; }
  std::size_t layers_before(int rows) const;
  LayerTap tap(Watch* watch);
  LayerTap tap(const ContextBatch& batch);
  std::vector<std::uint8_t> download(runtime::MemoryRef states, std::size_t bytes);

  runtime::BmodelSource source_;
  PartRole role_;
  bool deterministic_;
  std::unique_ptr<runtime::Chip> chip_;  // goes last
  std::vector<std::unique_ptr<Context>> contexts_;
  std::unique_ptr<Prefill> prefill_;
  std::unique_ptr<Vision> vision_;  // of a model that looks at images
  std::size_t state_bytes_;
  std::chrono::steady_clock::duration busy_{};
};

}  // namespace tpuserve::engine
