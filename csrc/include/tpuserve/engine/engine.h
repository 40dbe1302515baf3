// A model resident on one chip or on several, with independent sequences ("slots").
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tpuserve/engine/model_spec.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/library.h"

namespace tpuserve::engine {

// Where rows of the head go: one of the two, as ModelSpec::head says.
struct HeadRows {
  float* logits = nullptr;         // rows of vocab_size
  std::int32_t* tokens = nullptr;  // one per row
};

// Hidden states: [layers, rows, state_bytes] bytes. `data` is valid until the engine's next call.
struct WatchedStates {
  const std::uint8_t* data;
  std::size_t layers;
  std::size_t rows;
  std::size_t state_bytes;
};

// How an engine is opened. `slots`: at most the rows of the decode nets for each chip, when those
// are compiled for several sequences; else each slot is a context of its own. `deterministic`:
// every decode step runs the largest shape variant of its nets, so that no bit of a result depends
// on the other slots. `embedding`: path of a file with the hidden states of all ids, [ids, hidden]
// in the model's type, in place of embedding nets; empty without.
struct EngineOptions {
  int slots = 1;
  bool deterministic = false;
  std::string embedding = {};
  bool greedy = false;  // the bmodel's greedy_head draws: the head is kArgmax
};

// Synchronous and single-threaded by contract. Arguments out of range are std::invalid_argument and
// change nothing; DeviceError and LaunchError leave the touched slots with undefined rows.
class Engine {
 public:
  // `bmodels`: those of the model's parts in order, one for each of `chips`. With several,
  // every chip works on its layers of one group of slots while the others work on other groups.
  Engine(std::shared_ptr<runtime::Library> library,
         const std::vector<runtime::BmodelSource>& bmodels, const std::vector<int>& chips,
         const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Known also after close().
  const ModelSpec& spec() const { return spec_; }
  const std::vector<runtime::Net>& nets() const { return nets_; }
  int slots() const { return slots_; }
  // Bytes of a slot's KV rows of one token in one layer, of K or of V alone.
  std::size_t kv_row_bytes() const;

  std::uint64_t launches() const;
  // Groups of slots that a decode step runs one behind the other: contexts.
  int groups() const;
  // Seconds in which each chip had work, in the order of `chips`.
  std::vector<double> busy_s() const;
  int length(int slot) const;

  // Fills KV rows [position, position + count) of `slot`; rows above are forgotten. With `row`,
  // runs the head on the last token.
  void prefill(int slot, const std::int32_t* ids, std::size_t count, int position,
               const HeadRows* row);
  // One token for each of `slots`: ids[i] goes to the first free row of slots[i].
  void decode(const std::vector<int>& slots, const std::int32_t* ids, const HeadRows& rows);
  void copy_prefix(int source, int target, int tokens);
  // The slot's KV rows in host memory: [layers, 2 (K, V), rows, kv_row_bytes] bytes. `save` writes
  // length(slot) rows; `restore` takes the first `tokens` of `rows` and sets the slot's length.
  void save(int slot, std::uint8_t* data) const;
  void restore(int slot, const std::uint8_t* data, int rows, int tokens);
  void free(int slot);
  // Frees a slot whose rows may hold NaN, which would spread to whatever comes next: all are
  // zeroed.
  void wipe(int slot);

  // Makes pixels, [tiles, channels, image_size, image_size] with as many tiles as the aspect ratio
  // has, image `index` of the slot; images before it have been encoded. Those behind it and what is
  // shown of them are forgotten. The slot's text is to see it: show_images().
  void encode_image(int slot, int index, const float* pixels, int ratio);
  // What the slot holds and will hold is a text whose image tokens are at `positions`, ascending:
  // those of its first images. Without positions the text has no images. Encoded images stay until
  // others take their place, whatever is shown; prefill, decode and copy_prefix (which takes images
  // along) go by what is shown.
  void show_images(int slot, const std::vector<int>& positions);
  // Images of the slot that are encoded.
  int encoded_images(int slot) const;

  // From now on each prefill and decode of the slot copies the hidden states that the layers put
  // out to the host, which makes it slower. `layers`: ascending; no layers end it.
  void watch(int slot, const std::vector<int>& layers);
  // Of the slot's last prefill or decode. std::invalid_argument when nobody watches it.
  WatchedStates watched(int slot) const;

  // Paths of the weights that an adapter may fill, and the bytes of their memory.
  std::map<std::string, std::size_t> adapter_weights() const;
  // Fills one of them, padded with zeros. All slots are emptied: their rows are another model's.
  void set_adapter_weight(const std::string& path, const std::vector<std::uint8_t>& data);

  // Gives memory and chip back; the calls above then throw CoreError. Idempotent.
  void close();

 private:
  struct Resident;

  Resident& resident() const;
  void check_decode(const std::vector<int>& slots) const;
  void check_slot(int slot) const;
  void check_images(int slot) const;
  void check_images_lie_before(int slot, int length) const;
  void check_ids(const std::int32_t* ids, std::size_t count) const;

  ModelSpec spec_;
  std::vector<runtime::Net> nets_;
  int slots_;
  std::unique_ptr<Resident> resident_;
};

}  // namespace tpuserve::engine
