#pragma once

#include <unistd.h>

#include <cstddef>

namespace syncbn {

/// Size of a memory page in bytes: 4 KiB on most systems, up to 64 KiB on Arm.
inline std::size_t page_bytes() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace syncbn
