#include "core/console.hpp"

#include <unistd.h>

#include <new>
#include <system_error>

namespace syncbn {

void write_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

const char* message_of(const std::exception& e) noexcept {
  if (dynamic_cast<const std::bad_alloc*>(&e) != nullptr)
    return "out of memory; use a smaller batch_per_worker, fewer workers, or more hosts";
  const auto* refused = dynamic_cast<const std::system_error*>(&e);
  if (refused != nullptr && refused->code() == std::errc::resource_unavailable_try_again)
    return "no further thread can be started; raise the limit (ulimit -u, pids of the container), or use threads=1 and "
           "data.threads=1";
  return e.what();
}

}  // namespace syncbn
