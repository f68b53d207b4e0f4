#include "core/console.hpp"

#include <unistd.h>

#include <new>

namespace syncbn {

void write_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

const char* message_of(const std::exception& e) noexcept {
  if (dynamic_cast<const std::bad_alloc*>(&e) == nullptr) return e.what();
  return "out of memory; use a smaller batch_per_worker, fewer workers, or more hosts";
}

}  // namespace syncbn
