#pragma once

#include <string>

#include "decode.h"
#include "head.h"
#include "kv_rows.h"
#include "prefill.h"
#include "tpuserve/engine/discovery.h"
#include "tpuserve/runtime/bmodel.h"

namespace tpuserve::engine {

// One slot: a runtime over the bmodel (weights are shared with the other slots'), its KV rows, and
// how many of them hold tokens.
class Context {
 public:
  Context(runtime::Chip& chip, const std::string& path);

  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  runtime::Bmodel bmodel;
  ModelNets nets;
  KvRows kv;
  Head head;
  Decode decode;
  int length = 0;
};

}  // namespace tpuserve::engine
