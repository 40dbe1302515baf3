#pragma once

#include <functional>
#include <optional>
#include <string>

#include "tpuserve/engine/discovery.h"

namespace tpuserve::engine {

using FindNet = std::function<const runtime::Net*(const std::string&)>;

// The nets of layer `number` where it attends to images: what tells it is the net that makes keys
// and values of an image. Their shapes are checked by read_cross_nets. Throws BmodelError when one
// is missing.
std::optional<CrossNets> find_cross_nets(const FindNet& find, int number);

// The vendor's own form of a layer that attends to images computes keys and values in every prefill
// and keeps them once for each head. Throws BmodelError for it: the checkpoint must be compiled
// anew.
void refuse_repeated_keys(const runtime::Net& prefill);

// Reads what images look like from the image net and the cross-attention nets of `model.layers`
// into `model.spec.vision`, and checks all of them. Decode shapes are known already. Without such
// layers there is nothing to do. Throws BmodelError.
void read_cross_nets(ModelNets& model);

}  // namespace tpuserve::engine
