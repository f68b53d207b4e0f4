#include "optim/options.hpp"

#include <fmt/format.h>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

void refuse_name(const std::string& key, const std::string& value, const std::vector<std::string>& names) {
  throw Error(key + ": " + unknown(value, names), ExitCode::usage);
}

void require_in_range(const std::string& key, double value, const Range& range) {
  if (range.contains(value)) return;
  throw Error(fmt::format("{} = {} must be a number {}", key, value, range.str()), ExitCode::usage);
}

}  // namespace syncbn
