#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "train/config/schema.hpp"

namespace syncbn::detail {

/// Throws Error(usage); control characters that came from the text stand as \xNN, so that it is one line.
[[noreturn]] void fail(const std::string& message);

/// "FILE:LINE", or the origin alone where a node has no line (overrides).
std::string place_of(const YAML::Node& node, const std::string& origin);

/// What "KEY=VALUE" of the command line says. Throws Error(usage).
Setting parse_assignment(const std::string& text);

/// Reads a scalar or a list of scalars strictly: what the text says, not what YAML 1.1 would make of it (`yes`, `010`,
/// `1_000` are refused). Throws Error(usage) with place, key and what would be right.
void assign(const std::string& key, const Rule& rule, const Field& field, const YAML::Node& node,
            const std::string& origin);

/// The text that assign() reads back to the same value; lists as [a, b]. Not for lists of layers.
std::string value_text(const Rule& rule, const Field& field);

}  // namespace syncbn::detail
