#pragma once

#include <string>
#include <vector>

#include "syncbn/train/config.hpp"

namespace syncbn::cli {

/// Whether the path is that of a folder with a config.yaml, as a run leaves it.
bool is_run(const std::string& path);

/// The configuration of a run, which output.dir then names, or of a file. Of a run's the values are left out that
/// nothing reads, which an earlier version may have written; an override must be read. Throws Error(usage).
Config load_run_or_config(const std::string& path, const std::vector<std::string>& overrides);

/// output.dir with {name} replaced by the stem of the configuration's file name.
std::string run_path(const Config& config, const std::string& config_path);

/// Throws Error(usage): a path must survive in files that are in UTF-8. `key` is what chooses it.
void require_utf8(const std::string& path, const std::string& key);

/// "8 workers on 2 ranks (4 threads each), 2 samples per worker, global batch 16, bn_span 16", and what else decides
/// the result.
std::string sizes_line(const Config& config, int ranks, int threads_per_rank);

}  // namespace syncbn::cli
