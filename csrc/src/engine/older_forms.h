#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kv_rows.h"
#include "tpuserve/runtime/bmodel.h"
#include "tpuserve/runtime/chip.h"

namespace tpuserve::engine {

// The nets of a bmodel in today's form. Those of 2023 differ:
// - Decode nets may have no memory of their own for inputs and outputs. They get some here; the
//   runtime copies the history from there in every launch.
// - ChatGLM's have the length before the sequence, [length, 1, …] instead of [1, length, …]: the
//   same numbers in the same order.
// - Its masks are 1 where nothing is to be seen, its embedding takes ids [length].
// - Its decode nets put out the whole window of K and V, moved one row on, for demos that keep the
//   rows of a text at the window's end. Keys are rotated before they are stored and the mask tells
//   which rows are seen, so rows may lie anywhere: ours begin at 0 and stay. Of the window only
//   the last row, the new one, is taken.
class OlderForms {
 public:
  OlderForms(runtime::Chip& chip, const std::vector<runtime::Net>& nets);

  // Valid as long as the object.
  const std::vector<runtime::Net>& nets() const { return nets_; }

 private:
  void give_memory(runtime::Net& net);
  runtime::MemoryRef shared(const std::string& use, const runtime::Port& port);
  runtime::MemoryRef allocate(const runtime::Port& port);

  runtime::Chip& chip_;
  std::vector<runtime::DeviceMemory> memory_;
  std::map<std::pair<std::string, std::size_t>, runtime::MemoryRef> shared_;  // by use and size
  std::vector<runtime::Net> nets_;
};

// After the launch of a decode net that puts out windows: its new rows to row `row` of a slot.
void take_new_rows(runtime::Chip& chip, const runtime::Net& net,
                   const std::vector<runtime::Tensor>& outputs, const KvRows& kv, std::size_t layer,
                   int row);

}  // namespace tpuserve::engine
