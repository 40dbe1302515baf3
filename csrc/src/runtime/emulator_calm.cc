#include "emulator_calm.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <ctime>

#include "emulator_copies.h"
#include "import_table.h"
#include "wake_event.h"

// libcmodel simulates a chip with one firmware thread and five engine threads. All of them poll:
// for messages, for commands in their queue, for the progress of another engine, for room in a
// queue. None ever sleeps, so on a small machine the pollers take the time from the thread that
// computes.
//
// Here each poll that finds nothing new a few dozen times in a row turns into a wait on an event,
// and each function that can end such a wait signals its event:
//
//   waits                                            until
//   firmware, in cmodel_read_share_reg               a message register is written
//   firmware, in send_command_to_fifo (queue full)   an engine takes a command
//   engine, in pthread_mutex_unlock (queue empty)    a command is sent to this engine
//   firmware or engine, in get_sync_id               an engine finishes a command
//   firmware, in check_all_engine_done               an engine finishes a command
//
// The calls are redirected in libcmodel's import table. Every wait has a time limit, so a signal
// that we do not know of delays a thread but cannot stop it. Each simulated chip is a copy of the
// library with events and functions of its own.

namespace tpuserve::runtime {

namespace {

constexpr std::size_t kEngines = 8;  // libcmodel numbers five; a power of two for the mask below
constexpr unsigned kPolls = 48;      // a poll costs 0.1 µs, a wake-up some 10 µs
constexpr long kLongestWaitNs = 20'000'000;
constexpr long kUnknownEngineWaitNs = 2'000'000;

// What one of libcmodel's threads is doing.
struct Poller {
  bool started_by_cmodel = false;
  int engine = -1;             // known after the first command
  bool inside_hook = false;    // mutexes unlocked on the way do not count as polls
  const void* kind = nullptr;  // what it polls for
  std::int64_t value = 0;      // and what it last saw
  unsigned polls = 0;
  std::uint32_t seen = 0;  // the event's count when this row of polls began

  void reset() { polls = 0; }

  // Counts one poll that returned `result`; waits when a row of equal results gets long. The count
  // of the event was read before the row began, so a signal during the row ends the wait at once.
  void poll(WakeEvent& event, std::int64_t result) {
    if (polls == 0 || kind != &event || value != result || seen != event.count()) {
      kind = &event;
      value = result;
      seen = event.count();
      polls = 1;
      return;
    }
    if (++polls < kPolls) return;
    event.wait(seen, kLongestWaitNs);
    polls = 0;
  }
};
thread_local Poller poller;

class InsideHook {
 public:
  InsideHook() { poller.inside_hook = true; }
  ~InsideHook() { poller.inside_hook = false; }
  InsideHook(const InsideHook&) = delete;
  InsideHook& operator=(const InsideHook&) = delete;
};

struct ThreadStart {
  void* (*routine)(void*);
  void* argument;
};

void* run_marked(void* raw) {
  const ThreadStart start = *static_cast<ThreadStart*>(raw);
  delete static_cast<ThreadStart*>(raw);
  poller.started_by_cmodel = true;
  return start.routine(start.argument);
}

template <typename Function>
ImportTable::Redirection redirect(const char* name, Function* replacement, Function** saved) {
  return {name, reinterpret_cast<void*>(replacement), reinterpret_cast<void**>(saved)};
}

// The hooks of one copy of libcmodel. It calls them without a word of which copy it is (all say
// that they are chip 0), so each copy has functions of its own.
template <int kCopy>
class Calm {
 public:
  static bool install(void* cmodel) {
    const ImportTable imports(cmodel);
    return imports.redirect_all({
        redirect("pthread_mutex_unlock", unlock_mutex, &original.unlock_mutex),
        redirect("pthread_create", create_thread, &original.create_thread),
        redirect("execute_command", execute_command, &original.execute_command),
        redirect("send_command_to_fifo", send_command, &original.send_command),
        redirect("_Z11set_sync_idi11ENGINE_TYPEj", set_sync_id, &original.set_sync_id),
        redirect("get_sync_id", get_sync_id, &original.get_sync_id),
        redirect("check_all_engine_done", check_all_engine_done, &original.check_all_engine_done),
        redirect("cmodel_read_share_reg", read_register, &original.read_register),
        redirect("_Z17__write_share_regjji", write_register, &original.write_register),
    });
  }

 private:
  // The real functions.
  struct Originals {
    int (*unlock_mutex)(pthread_mutex_t*);
    int (*create_thread)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    void (*execute_command)(int chip, void* command, int engine);
    void (*send_command)(int chip, void* command, int engine, bool* sent);
    void (*set_sync_id)(int chip, int engine, unsigned id);
    int (*get_sync_id)(int chip, int engine);
    bool (*check_all_engine_done)(int chip, void* ids);
    unsigned (*read_register)(unsigned index, int chip);
    void (*write_register)(unsigned index, unsigned value, int chip);
  };
  static inline Originals original;
  static inline WakeEvent message_written;
  static inline WakeEvent queue_has_room;
  static inline WakeEvent command_finished;
  static inline std::array<WakeEvent, kEngines> command_sent;

  static WakeEvent& sent_to(int engine) {
    return command_sent[static_cast<unsigned>(engine) % kEngines];
  }

  static int unlock_mutex(pthread_mutex_t* mutex) {
    const int result = original.unlock_mutex(mutex);
    // The threads of libbmlib and of its users pass here too: they have work and must not wait.
    if (!poller.started_by_cmodel || poller.inside_hook) return result;
    if (poller.engine >= 0) {
      poller.poll(sent_to(poller.engine), 0);
    } else if (++poller.polls >= kPolls) {
      const timespec pause{0, kUnknownEngineWaitNs};
      nanosleep(&pause, nullptr);
    }
    return result;
  }

  static int create_thread(pthread_t* thread, const pthread_attr_t* attributes,
                           void* (*routine)(void*), void* argument) {
    auto* start = new ThreadStart{routine, argument};
    const int result = original.create_thread(thread, attributes, run_marked, start);
    if (result != 0) delete start;
    return result;
  }

  static void execute_command(int chip, void* command, int engine) {
    poller.engine = engine;
    poller.reset();
    queue_has_room.signal();
    const InsideHook inside;
    original.execute_command(chip, command, engine);
  }

  static void send_command(int chip, void* command, int engine, bool* sent) {
    {
      const InsideHook inside;
      original.send_command(chip, command, engine, sent);
    }
    if (*sent) {
      poller.reset();
      sent_to(engine).signal();
    } else {
      poller.poll(queue_has_room, 0);
    }
  }

  static void set_sync_id(int chip, int engine, unsigned id) {
    {
      const InsideHook inside;
      original.set_sync_id(chip, engine, id);
    }
    poller.reset();
    command_finished.signal();
  }

  static int get_sync_id(int chip, int engine) {
    int id = 0;
    {
      const InsideHook inside;
      id = original.get_sync_id(chip, engine);
    }
    poller.poll(command_finished, id);
    return id;
  }

  static bool check_all_engine_done(int chip, void* ids) {
    bool done = false;
    {
      const InsideHook inside;
      done = original.check_all_engine_done(chip, ids);
    }
    if (done) {
      poller.reset();
    } else {
      poller.poll(command_finished, -1);
    }
    return done;
  }

  static unsigned read_register(unsigned index, int chip) {
    unsigned value = 0;
    {
      const InsideHook inside;
      value = original.read_register(index, chip);
    }
    // The firmware compares two registers; both keep their value while there is no message, and in
    // that state they are equal. A pending message makes them differ, which starts a new row.
    poller.poll(message_written, value);
    return value;
  }

  static void write_register(unsigned index, unsigned value, int chip) {
    {
      const InsideHook inside;
      original.write_register(index, value, chip);
    }
    poller.reset();
    message_written.signal();
  }
};

}  // namespace

bool calm_emulator(void* cmodel, int copy) { return install_hook<Calm>(copy, cmodel); }

}  // namespace tpuserve::runtime
