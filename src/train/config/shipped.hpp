#pragma once

#include <string>
#include <vector>

#include "syncbn/train/config.hpp"

namespace syncbn {

/// The one of this name, with or without ".yaml"; null if there is none.
const ShippedConfig* find_shipped(const std::vector<ShippedConfig>& all, const std::string& name);

std::vector<std::string> names_of(const std::vector<ShippedConfig>& all);

}  // namespace syncbn
