#pragma once

#include <unistd.h>

#include <cstddef>

namespace syncbn {

/// Bytes of a page of memory: 4 KiB with most systems, up to 64 KiB on Arm.
inline std::size_t page_bytes() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace syncbn
