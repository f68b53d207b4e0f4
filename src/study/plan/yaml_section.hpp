#pragma once

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "core/text.hpp"
#include "train/config/value.hpp"

namespace syncbn {

/// A plain number that is `valid`. Throws Error(usage) saying what is `expected`.
template <class T>
T number_of(const YAML::Node& node, const std::string& place, const std::string& key, const char* expected,
            bool (*valid)(T)) {
  const std::string text = node.IsScalar() ? node.Scalar() : "";
  const std::optional<T> value = parse_whole<T>(text);
  if (!value || !valid(*value)) detail::fail(fmt::format("{}: {}: expected {}, got '{}'", place, key, expected, text));
  return *value;
}

/// However numbers are spelled: 0.1 and 1e-1.
inline bool same_value(const std::string& a, const std::string& b) {
  const std::optional<double> x = parse_whole<double>(a), y = parse_whole<double>(b);
  return a == b || (x && y && *x == *y);
}

/// Keys of a map in the order of the file; duplicates and keys other than the known ones are refused.
class Section {
 public:
  Section(const YAML::Node& map, const std::string& path, const std::string& origin,
          const std::vector<std::string>& known = {}) {
    if (!map.IsMap())
      detail::fail(fmt::format("{}: {}: expected 'key: value' lines", detail::place_of(map, origin), path));
    for (const auto& entry : map) {
      const std::string place = detail::place_of(entry.first, origin);
      if (!entry.first.IsScalar()) detail::fail(fmt::format("{}: a key must be plain text", place));
      const std::string name = entry.first.Scalar();
      if (!known.empty() && std::find(known.begin(), known.end(), name) == known.end()) {
        detail::fail(fmt::format("{}: unknown key '{}' in {}{}", place, name, path, did_you_mean(name, known)));
      }
      for (const auto& other : entries) {
        if (other.name == name)
          detail::fail(fmt::format("{}: duplicate key '{}' (first at {})", place, name, other.place));
      }
      entries.push_back({name, place, entry.second});
    }
  }

  struct Entry {
    std::string name, place;
    YAML::Node node;
  };
  std::vector<Entry> entries;

  const Entry* find(const std::string& name) const {
    for (const Entry& entry : entries) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }
};

}  // namespace syncbn
