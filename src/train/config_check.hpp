#pragma once

#include <map>
#include <string>

#include "syncbn/train/config.hpp"

namespace syncbn::detail {

/// Where each key was given ("FILE:LINE", "command line"); absent: default.
using Places = std::map<std::string, std::string>;

/// Checks that need more than one key (no data, no machine). Throws Error(usage) naming the place of the key to change.
void check(const Config& config, const Places& places);

}  // namespace syncbn::detail
