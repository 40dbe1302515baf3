#include "import_table.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace tpuserve::runtime {

namespace {

bool make_writable(void** slot) {
  const auto page_bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t page = reinterpret_cast<std::uintptr_t>(slot) & ~(page_bytes - 1);
  return mprotect(reinterpret_cast<void*>(page), page_bytes, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace

ImportTable::ImportTable(void* dlopen_handle) {
  link_map* library = nullptr;
  if (dlinfo(dlopen_handle, RTLD_DI_LINKMAP, static_cast<void*>(&library)) != 0) return;
  base_ = library->l_addr;
  for (const ElfW(Dyn)* entry = library->l_ld; entry->d_tag != DT_NULL; ++entry) {
    const auto address = static_cast<std::uintptr_t>(entry->d_un.d_ptr);  // relocated by glibc
    switch (entry->d_tag) {
      case DT_JMPREL:
        relocations_ = reinterpret_cast<const ElfW(Rela)*>(address);
        break;
      case DT_PLTRELSZ:
        count_ = entry->d_un.d_val / sizeof(ElfW(Rela));
        break;
      case DT_SYMTAB:
        symbols_ = reinterpret_cast<const ElfW(Sym)*>(address);
        break;
      case DT_STRTAB:
        names_ = reinterpret_cast<const char*>(address);
        break;
      default:
        break;
    }
  }
}

void** ImportTable::find(const char* name) const {
  if (relocations_ == nullptr || symbols_ == nullptr || names_ == nullptr) return nullptr;
  for (std::size_t i = 0; i < count_; ++i) {
    const ElfW(Sym) & symbol = symbols_[ELF64_R_SYM(relocations_[i].r_info)];
    if (std::strcmp(names_ + symbol.st_name, name) == 0) {
      return reinterpret_cast<void**>(base_ + relocations_[i].r_offset);
    }
  }
  return nullptr;
}

bool ImportTable::redirect_all(const std::vector<Redirection>& redirections) const {
  std::vector<void**> slots;
  for (const Redirection& redirection : redirections) {
    void** slot = find(redirection.name);
    if (slot == nullptr || !make_writable(slot)) return false;
    slots.push_back(slot);
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (*slots[i] == redirections[i].replacement) continue;
    *redirections[i].original = *slots[i];
    *slots[i] = redirections[i].replacement;
  }
  return true;
}

}  // namespace tpuserve::runtime
