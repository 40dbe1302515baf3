#pragma once

namespace tpuserve::runtime {

// Replaces the busy wait of the chip emulator's threads by sleeping until there is work, in memory
// only. `cmodel` is a dlopen handle of a copy of libcmodel (see emulator_copies.h) whose threads
// have not started yet. Returns false, having changed nothing, when the library does not import
// what is expected: it is then slow, but right. A second call changes nothing and returns true.
bool calm_emulator(void* cmodel, int copy);

}  // namespace tpuserve::runtime
