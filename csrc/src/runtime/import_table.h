#pragma once

#include <link.h>

#include <cstddef>
#include <vector>

namespace tpuserve::runtime {

// The functions that a loaded library calls through its procedure linkage table (ELF, 64 bits).
class ImportTable {
 public:
  struct Redirection {
    const char* name;   // as in the symbol table
    void* replacement;  // same signature
    void** original;    // receives the function that was called before
  };

  explicit ImportTable(void* dlopen_handle);

  // Redirects all or, when one is not imported or memory cannot be made writable, none. What
  // already points to its replacement is left alone. No thread may call through the table
  // meanwhile.
  bool redirect_all(const std::vector<Redirection>& redirections) const;

 private:
  void** find(const char* name) const;

  ElfW(Addr) base_ = 0;
  const ElfW(Rela) * relocations_ = nullptr;
  std::size_t count_ = 0;
  const ElfW(Sym) * symbols_ = nullptr;
  const char* names_ = nullptr;
};

}  // namespace tpuserve::runtime
