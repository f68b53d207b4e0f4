#pragma once

#include <string>

namespace syncbn::cli {

/// SIGPIPE, and SIGXFSZ of a limit on the size of files, become a failed write, as for any other broken file.
void ignore_write_signals();

/// SIGTERM, SIGUSR1, SIGHUP (unless nohup has it ignored) and the first SIGINT, which rank 0 answers with a line on
/// stderr, ask the training to save and stop. The second SIGINT ends the process, even while it saves; the others
/// change nothing however often they come, because schedulers and launchers may send them to a process more than once.
void stop_on_signals();

/// SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave a backtrace in `directory`/crash-rankN.txt (if that exists, else
/// on stderr) and one line on stderr, then end the process by the same signal.
void report_crashes(int rank, const std::string& directory);

}  // namespace syncbn::cli
