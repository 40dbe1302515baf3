#pragma once

#include <cstddef>

namespace tpuserve::runtime {

// Lets libbmrt run a bmodel whose layers several chips share on one emulated chip. By itself it
// opens devices 1, 2 …, and the emulator ends the process, which has device 0 alone; it copies
// partial results from device to device with bm_memcpy_p2p, which does nothing there; and it has a
// thread for each device, which all drive the same simulated engines. So these devices become
// handles of one, the copies are made, and one thread at a time sends something and waits for it.
//
// Between two steps of a net each thread copies what it needs from the others and then launches,
// and libbmrt lets the launch write where the others still copy from. On cards the copies are over
// long before; here a launch waits until all threads have come to theirs.
//
// `bmrt` and `bmlib` are handles of dlopen, of one copy of the emulator.
void share_one_device(void* bmrt, void* bmlib, int copy);

// While it lives, launches of this thread are no steps of several devices but the thread's own.
class OwnLaunch {
 public:
  explicit OwnLaunch(std::size_t devices);
  ~OwnLaunch();
  OwnLaunch(const OwnLaunch&) = delete;
  OwnLaunch& operator=(const OwnLaunch&) = delete;
};

}  // namespace tpuserve::runtime
