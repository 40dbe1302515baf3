#pragma once

namespace tpuserve::runtime {

// Makes libbmlib use this libcmodel (handles of dlopen, of one copy of the emulator). By itself it
// opens what the environment names, or searches: that might be another file than the one whose
// threads we have calmed.
void provide_cmodel(void* bmlib, void* cmodel, int copy);

}  // namespace tpuserve::runtime
