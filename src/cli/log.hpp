#pragma once

#include <string>

namespace syncbn::cli {

/// Sends spdlog's messages of this process to stderr as "syncbn: ...". Ranks other than 0 are silent there unless
/// `all_ranks`, which also puts the rank in front of every line.
void start_logging(int rank, bool all_ranks);

/// From now on messages also go to the run directory: log.txt (rank 0) or log.rankN.txt. Lines are kept back until the
/// directory has been claimed for the run (holds its config.yaml). spdlog's logger "run" writes there alone.
void log_to_run_directory(int rank, const std::string& run_dir);

/// Writes a failure that is reported elsewhere into the run directory's log too, if there is one.
void record_failure(const std::string& message);

/// Writes what is still kept back.
void finish_logging();

}  // namespace syncbn::cli
