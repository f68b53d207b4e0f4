#include <fmt/format.h>

#include <exception>
#include <new>

#include "cli/command_line.hpp"
#include "cli/launch.hpp"
#include "cli/signals.hpp"

namespace {

using syncbn::ExitCode;

ExitCode report(const char* message, ExitCode code) {
  std::fflush(stdout);
  fmt::print(stderr, "syncbn: {}\n", message);
  return code;
}

ExitCode run_and_report(int argc, char** argv) {
  try {
    return syncbn::cli::run(argc, argv);
  } catch (const syncbn::cli::ReportedByRankZero& e) {
    return e.code();
  } catch (const syncbn::Error& e) {
    return report(e.what(), e.code());
  } catch (const std::bad_alloc&) {
    return report("out of memory; use a smaller batch_per_worker, fewer workers, or more hosts", ExitCode::failure);
  } catch (const std::exception& e) {
    return report(e.what(), ExitCode::failure);
  }
}

}  // namespace

int main(int argc, char** argv) {
  syncbn::cli::ignore_broken_pipes();
  ExitCode code = run_and_report(argc, argv);
  // What was printed counts only once it has arrived.
  if (std::fflush(stdout) != 0 && code == ExitCode::ok)
    code = report("cannot write to standard output", ExitCode::failure);
  return static_cast<int>(code);
}
