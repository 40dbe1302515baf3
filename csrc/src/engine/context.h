#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cross_attention.h"
#include "decode.h"
#include "head.h"
#include "kv_rows.h"
#include "older_forms.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/runtime/bmodel.h"

namespace tpuserve::engine {

// A runtime over the bmodel, whose weights it shares with the other contexts of the chip, and its
// slots: one for each row of the decode nets. A bmodel for one sequence needs a context per slot.
class Context {
 public:
  // `deterministic`: see Engine.
  Context(runtime::Chip& chip, const runtime::BmodelSource& source, PartRole role,
          bool deterministic);

  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  runtime::Bmodel bmodel;
  OlderForms forms;  // the bmodel's nets as the engine sees them
  ModelNets nets;
  std::vector<KvRows> slots;
  std::vector<ImageSlot> images;           // of a model that looks at images
  std::optional<CrossAttention> crossing;  // as well
  std::optional<Head> head;                // in the last part
  Decode decode;
};

}  // namespace tpuserve::engine
