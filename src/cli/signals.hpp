#pragma once

#include <string>

namespace syncbn::cli {

/// SIGPIPE becomes a failed write, as for any other broken file.
void ignore_broken_pipes();

/// SIGTERM and SIGUSR1 ask the training to save and stop.
void stop_on_signals();

/// SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave a backtrace in `directory`/crash-rankN.txt (if that exists, else
/// on stderr) and one line on stderr, then end the process by the same signal.
void report_crashes(int rank, const std::string& directory);

}  // namespace syncbn::cli
