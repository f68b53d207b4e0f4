#include <fcntl.h>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <iterator>
#include <string>

#include "cli/command_line.hpp"
#include "cli/launch.hpp"
#include "cli/signals.hpp"
#include "core/console.hpp"

namespace {

using syncbn::ExitCode;

ExitCode report(const char* message, ExitCode code) {
  std::fflush(stdout);
  fmt::memory_buffer line;  // on the stack, unless it is long: there may be no other memory
  fmt::format_to(std::back_inserter(line), "syncbn: {}\n", message);
  syncbn::write_stderr({line.data(), line.size()});
  return code;
}

ExitCode run_and_report(int argc, char** argv) {
  try {
    return syncbn::cli::run(argc, argv);
  } catch (const syncbn::cli::ReportedByRankZero& e) {
    return e.code();
  } catch (const syncbn::Error& e) {
    return report(e.what(), e.code());
  } catch (const std::exception& e) {
    return report(syncbn::message_of(e), ExitCode::failure);
  }
}

/// Else the first file that is opened would take the place of one that is closed, and get what is meant for it. Opened
/// the wrong way round, so that its use fails as before.
void fill_standard_files() {
  for (int file = 0; file <= 2; ++file) {
    if (::fcntl(file, F_GETFD) < 0) ::open("/dev/null", file == 0 ? O_WRONLY : O_RDONLY);
  }
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_files();
  syncbn::cli::ignore_write_signals();
  ExitCode code = run_and_report(argc, argv);
  // What was printed counts only once it has arrived.
  if ((std::fflush(stdout) != 0 || std::ferror(stdout) != 0) && code == ExitCode::ok)
    code = report("cannot write to standard output", ExitCode::failure);
  return static_cast<int>(code);
}
