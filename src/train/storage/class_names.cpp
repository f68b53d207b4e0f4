#include "train/storage/class_names.hpp"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr const char* kKey = "classes";

/// "output 3 is 'cat' there and 'dog' here", or the numbers of classes where one has all names of the other.
std::string difference(const std::vector<std::string>& there, const std::vector<std::string>& here) {
  const auto [a, b] = std::mismatch(there.begin(), there.end(), here.begin(), here.end());
  if (a == there.end() || b == here.end())
    return fmt::format("there are {} there and {} here", there.size(), here.size());
  return fmt::format("output {} is '{}' there and '{}' here", a - there.begin(), *a, *b);
}

}  // namespace

void put_class_names(SafetensorsFile& weights, const std::vector<std::string>& names) {
  // A folder's name can be any bytes, which metadata cannot.
  if (names.empty() || !std::all_of(names.begin(), names.end(), [](const auto& name) { return is_utf8(name); })) return;
  weights.metadata[kKey] = nlohmann::json(names).dump();
}

std::vector<std::string> class_names(const SafetensorsFile& weights) {
  const auto found = weights.metadata.find(kKey);
  if (found == weights.metadata.end()) return {};
  const auto names = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  const auto is_text = [](const auto& name) { return name.is_string(); };
  // Other programs may use this key for something else.
  if (!names.is_array() || !std::all_of(names.begin(), names.end(), is_text)) return {};
  return names.get<std::vector<std::string>>();
}

void require_same_classes(const SafetensorsFile& weights, const std::vector<std::string>& names, const Model& model,
                          const std::vector<std::string>& except) {
  const std::vector<std::string> stored = class_names(weights);
  if (stored.empty() || names.empty() || stored == names) return;
  const ParameterSpec& last = model.parameters.back();  // of the classifier
  const auto leaves_out = [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), last.name.c_str(), 0) == 0;
  };
  if (std::any_of(except.begin(), except.end(), leaves_out)) return;
  throw Error(fmt::format("{}: its classes differ from those of data.path: {}; leave out the classifier: "
                          "model.weights_except='[\"{}.*\"]', or name the folders as they were",
                          weights.origin, difference(stored, names), model.layers[last.layer].name),
              ExitCode::bad_data);
}

}  // namespace syncbn
