#pragma once

#include "kv_rows.h"

namespace tpuserve::engine {

// One resident sequence: its KV rows, and how many of them hold tokens.
struct Slot {
  KvRows kv;
  int length = 0;
};

}  // namespace tpuserve::engine
