#pragma once

#include <cstdint>
#include <string>

namespace syncbn {

/// Memory that this host can still give this process, in bytes: what the system has, and the control groups that this
/// process is in, from its own up to the root, allow (version 2, or the memory controller of version 1). 0 when the
/// system does not say. `root`: of the file system, for tests.
std::int64_t available_memory(const std::string& root = "");

}  // namespace syncbn
