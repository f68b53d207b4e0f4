#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

namespace syncbn::detail {

/// The one document of a text. Throws YAML::Exception where it is not YAML, for more than one document, and for one
/// whose aliases would unfold without end, or to more than any configuration holds.
YAML::Node load_yaml(const std::string& text);

/// The same. Throws Error(usage) with `origin` and line, for over-long text and what is no text in UTF-8, too.
YAML::Node parse_yaml(const std::string& text, const std::string& origin);

/// A configuration file's text, at most a little over 1 MiB of it. Throws Error(usage) where it cannot be read.
std::string read_config_file(const std::string& path);

}  // namespace syncbn::detail
