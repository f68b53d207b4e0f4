#pragma once

#include <optional>
#include <string>

namespace syncbn::cli {

/// The folder in which the readers find all files of a data set, without reading them; nothing if there is none.
/// `path` as data.path in a configuration.
std::optional<std::string> find_data(const std::string& kind, const std::string& path);

}  // namespace syncbn::cli
