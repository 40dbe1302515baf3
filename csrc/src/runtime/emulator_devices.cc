#include "emulator_devices.h"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "emulator_copies.h"
#include "import_table.h"
#include "vendor_abi.h"

namespace tpuserve::runtime {

namespace {

template <typename Function>
ImportTable::Redirection redirect(const char* name, Function* replacement, Function** saved) {
  return {name, reinterpret_cast<void*>(replacement), reinterpret_cast<void**>(saved)};
}

thread_local bool own_launch = false;
// Of the model that launches: an engine is used by one thread, and the emulator by few engines.
std::atomic<std::size_t> devices{1};

template <int kCopy>
class Devices {
 public:
  static bool install(void* bmrt, void* bmlib) {
    sync = reinterpret_cast<Sync*>(dlsym(bmlib, "bm_thread_sync"));
    return ImportTable(bmrt).redirect_all({
        redirect("bm_dev_request", request, &original.request),
        redirect("bm_memcpy_p2p", copy_across, &original.copy_across),
        redirect("bm_memcpy_d2d_byte", copy_inside, &original.copy_inside),
        redirect("bm_send_api", send, &original.send),
        redirect("tpu_kernel_launch_async", launch, &original.launch),
    });
  }

 private:
  using Sync = abi::Status(abi::Handle);
  struct Originals {
    abi::Status (*request)(abi::Handle*, int);
    abi::Status (*copy_across)(abi::Handle, abi::Memory, abi::Handle, abi::Memory);
    abi::Status (*copy_inside)(abi::Handle, abi::Memory, std::size_t, abi::Memory, std::size_t,
                               std::size_t);
    abi::Status (*send)(abi::Handle, int, const std::uint8_t*, std::uint32_t);
    abi::Status (*launch)(abi::Handle, int, void*, std::size_t);
  };

  static abi::Status request(abi::Handle* handle, int) { return original.request(handle, 0); }

  static abi::Status copy_across(abi::Handle, abi::Memory source, abi::Handle target_device,
                                 abi::Memory target) {
    return copy_inside(target_device, target, 0, source, 0, source.size);
  }

  static abi::Status copy_inside(abi::Handle handle, abi::Memory target, std::size_t target_offset,
                                 abi::Memory source, std::size_t source_offset, std::size_t bytes) {
    return alone(handle, [&] {
      return original.copy_inside(handle, target, target_offset, source, source_offset, bytes);
    });
  }

  static abi::Status send(abi::Handle handle, int api, const std::uint8_t* data,
                          std::uint32_t bytes) {
    meet();
    return alone(handle, [&] { return original.send(handle, api, data, bytes); });
  }

  static abi::Status launch(abi::Handle handle, int function, void* data, std::size_t bytes) {
    meet();
    return alone(handle, [&] { return original.launch(handle, function, data, bytes); });
  }

  // Waits until the threads of all devices are here.
  static void meet() {
    if (own_launch || devices < 2) return;
    constexpr std::chrono::seconds kLongest{1};
    std::unique_lock<std::mutex> lock(meeting);
    const unsigned round = rounds;
    if (++here == devices) {
      here = 0;
      ++rounds;
      all_here.notify_all();
      return;
    }
    if (!all_here.wait_for(lock, kLongest, [round] { return rounds != round; })) --here;
  }

  template <typename Call>
  static abi::Status alone(abi::Handle handle, Call call) {
    const std::lock_guard<std::mutex> lock(mutex);
    const abi::Status status = call();
    return status == abi::kSuccess ? sync(handle) : status;
  }

  static inline Originals original;
  static inline Sync* sync;
  static inline std::mutex mutex;
  static inline std::mutex meeting;
  static inline std::condition_variable all_here;
  static inline std::size_t here = 0;
  static inline unsigned rounds = 0;
};

}  // namespace

OwnLaunch::OwnLaunch(std::size_t count) {
  own_launch = true;
  devices = count;
}

OwnLaunch::~OwnLaunch() { own_launch = false; }

void share_one_device(void* bmrt, void* bmlib, int copy) {
  install_hook<Devices>(copy, bmrt, bmlib);
}

}  // namespace tpuserve::runtime
