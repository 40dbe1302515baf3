#pragma once

#include "tpuserve/engine/discovery.h"

namespace tpuserve::engine {

// Reads shape variants, slots and KV shape from the decode nets of `model.layers` into `model`, and
// checks all of them. Hidden size and dtype are known already. A net has 3 + 2 × slots inputs: one
// slot is a net for one sequence, more are a batch whose row i is slot i. Throws BmodelError.
void read_decode_nets(ModelNets& model);

}  // namespace tpuserve::engine
