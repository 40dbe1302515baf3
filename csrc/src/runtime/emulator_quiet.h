#pragma once

namespace tpuserve::runtime {

// Stops the chip emulator from printing every step of every launch to standard output. What a
// thread printed last is written to standard error when the emulator ends the process, since that
// is how it reports a failed check. Also shortens the second that libbmlib sleeps at exit. In
// memory only; handles of dlopen.
void quiet_emulator(void* cmodel, void* bmlib);

}  // namespace tpuserve::runtime
