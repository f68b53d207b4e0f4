#include "core/build_id.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/round_up.hpp"

namespace syncbn {

namespace {

/// Returns the build ID in a note segment; empty if it contains none.
std::string id_in(const std::byte* notes, std::size_t bytes) {
  while (bytes >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes, sizeof note);
    const auto name_bytes = round_up<std::size_t>(note.n_namesz, 4);
    const std::size_t size = sizeof note + name_bytes + round_up<std::size_t>(note.n_descsz, 4);
    if (size > bytes) break;
    const std::byte* const name = notes + sizeof note;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
      std::string id;
      for (std::size_t i = 0; i < note.n_descsz; ++i)
        id += fmt::format("{:02x}", std::to_integer<int>(name[name_bytes + i]));
      return id;
    }
    notes += size;
    bytes -= size;
  }
  return "";
}

/// A callback of dl_iterate_phdr() that stops at the object that contains this function, and returns its build ID in
/// `id`.
int visit(dl_phdr_info* object, std::size_t, void* id) {
  const auto here = reinterpret_cast<std::uintptr_t>(&visit);
  bool is_own = false;
  std::string found;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD) is_own = is_own || (here >= begin && here < begin + segment.p_memsz);
    if (segment.p_type == PT_NOTE && found.empty())
      found = id_in(reinterpret_cast<const std::byte*>(begin), segment.p_memsz);
  }
  if (is_own) *static_cast<std::string*>(id) = found;
  return is_own ? 1 : 0;
}

}  // namespace

std::string build_id() {
  std::string id;
  ::dl_iterate_phdr(visit, &id);
  return id;
}

}  // namespace syncbn
