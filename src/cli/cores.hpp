#pragma once

#include <vector>

namespace syncbn::cli {

/// Cores (not hardware threads) on which this process may run, by their logical index on this host.
std::vector<int> allowed_cores();

}  // namespace syncbn::cli
