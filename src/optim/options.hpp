#pragma once

#include <string>
#include <vector>

#include "core/range.hpp"

namespace syncbn {

/// Valid values of OptimizerOptions::name.
std::vector<std::string> optimizer_names();

/// Throws Error(usage): the value of this key is not one of the names.
[[noreturn]] void refuse_name(const std::string& key, const std::string& value, const std::vector<std::string>& names);

/// Throws Error(usage) unless the value of this key lies in the range.
void require_in_range(const std::string& key, double value, const Range& range);

}  // namespace syncbn
