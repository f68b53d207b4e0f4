#pragma once

#include <map>
#include <string>
#include <vector>

#include "syncbn/train/config.hpp"
#include "train/config/schema.hpp"

namespace syncbn::detail {

/// Where each key was given ("FILE:LINE", "command line"); absent: default.
using Places = std::map<std::string, std::string>;

/// Whether this key is in use: whether anything in such an experiment reads it.
bool is_read(const std::string& key, const Config& config);
/// Why nothing reads it, and what to do.
std::string why_unread(const std::string& key, const Config& config);
/// Keys that are not at their defaults though nothing reads them, in the schema's order.
std::vector<const Key<Config>*> unread(Config config);
void reset(const Key<Config>& key, Config& config);

/// Checks that need more than one key (no data, no machine). Throws Error(usage) naming the place of the key to change.
void check(const Config& config, const Places& places);

}  // namespace syncbn::detail
