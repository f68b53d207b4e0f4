#pragma once

#include <string>

namespace syncbn::cli {

/// Sends spdlog's messages of this process to stderr as "syncbn: ...". Ranks other than 0 are silent there unless
/// `all_ranks`, which also puts the rank in front of every line.
void start_logging(int rank, bool all_ranks);

/// From now on messages also go to the run directory: log.txt (rank 0) or log.rankN.txt. Lines are kept back until the
/// directory has been claimed for the run (holds its config.yaml), so that nothing is written into somebody else's.
void log_to_run_directory(int rank, const std::string& run_dir);

}  // namespace syncbn::cli
