#pragma once

#include <string>

#include "syncbn/train/config.hpp"

namespace syncbn::cli {

/// output.dir with {name} replaced by the stem of the configuration's file name.
std::string run_path(const Config& config, const std::string& config_path);

/// Throws Error(usage): a path must survive in files that are in UTF-8. `key` is what chooses it.
void require_utf8(const std::string& path, const std::string& key);

/// "8 workers on 2 ranks (4 threads each), 2 samples per worker, global batch 16, bn_span 16", and what else decides
/// the result.
std::string sizes_line(const Config& config, int ranks, int threads_per_rank);

}  // namespace syncbn::cli
