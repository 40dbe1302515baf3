#include "emulator_quiet.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "import_table.h"

namespace tpuserve::runtime {

namespace {

// The end of what one thread printed.
class LastWords {
 public:
  void append(const char* text, std::size_t length) {
    if (length > text_.size()) {
      text += length - text_.size();
      length = text_.size();
    }
    const std::size_t kept = std::min(used_, text_.size() - length);
    std::memmove(text_.data(), text_.data() + used_ - kept, kept);
    std::memcpy(text_.data() + kept, text, length);
    used_ = kept + length;
  }

  int print(const char* format, std::va_list arguments) {
    std::array<char, 512> line{};
    const int length = std::vsnprintf(line.data(), line.size(), format, arguments);
    if (length > 0)
      append(line.data(), std::min(static_cast<std::size_t>(length), line.size() - 1));
    return length;
  }

  void write_to_stderr() const {
    std::fwrite(text_.data(), 1, used_, stderr);
    std::fputc('\n', stderr);
  }

 private:
  std::array<char, 1024> text_{};
  std::size_t used_ = 0;
};
thread_local LastWords last_words;

int quiet_printf(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  const int length = last_words.print(format, arguments);
  va_end(arguments);
  return length;
}

// What fortified code calls for printf.
int quiet_printf_chk(int, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  const int length = last_words.print(format, arguments);
  va_end(arguments);
  return length;
}

int quiet_puts(const char* text) {
  last_words.append(text, std::strlen(text));
  last_words.append("\n", 1);
  return 1;
}

int quiet_putchar(int character) {
  const char narrow = static_cast<char>(character);
  last_words.append(&narrow, 1);
  return character;
}

[[noreturn]] void loud_exit(int status) {
  last_words.write_to_stderr();
  std::exit(status);
}

// libbmlib gives its firmware thread a second to read the message that ends it; it is awake at
// once.
unsigned short_sleep(unsigned) {
  constexpr timespec kPause{0, 20'000'000};
  nanosleep(&kPause, nullptr);
  return 0;
}

template <typename Function>
void redirect(const ImportTable& imports, const char* name, Function* replacement) {
  void* original = nullptr;
  // A library that does not print this way needs no silence.
  imports.redirect_all({{name, reinterpret_cast<void*>(replacement), &original}});
}

}  // namespace

void quiet_emulator(void* cmodel, void* bmlib) {
  for (void* library : {cmodel, bmlib}) {
    const ImportTable imports(library);
    redirect(imports, "printf", quiet_printf);
    redirect(imports, "__printf_chk", quiet_printf_chk);
    redirect(imports, "puts", quiet_puts);
    redirect(imports, "putchar", quiet_putchar);
    redirect(imports, "exit", loud_exit);
  }
  redirect(ImportTable(bmlib), "sleep", short_sleep);
}

}  // namespace tpuserve::runtime
