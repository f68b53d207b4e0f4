#include "train/config/shipped.hpp"

namespace syncbn {

const ShippedConfig* find_shipped(const std::vector<ShippedConfig>& all, const std::string& name) {
  for (const ShippedConfig& shipped : all)
    if (name == shipped.name || name == shipped.name + ".yaml") return &shipped;
  return nullptr;
}

std::vector<std::string> names_of(const std::vector<ShippedConfig>& all) {
  std::vector<std::string> names;
  for (const ShippedConfig& shipped : all) names.push_back(shipped.name);
  return names;
}

}  // namespace syncbn
