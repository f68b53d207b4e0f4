#pragma once

#include <stdexcept>
#include <string>

namespace syncbn {

/// Process exit codes (sysexits.h where one fits; 75 = EX_TEMPFAIL: start again with --resume).
enum class ExitCode {
  ok = 0,
  failure = 1,       ///< failed while running
  usage = 2,         ///< bad command line or configuration
  bad_data = 65,     ///< a data set, checkpoint or other input file is malformed
  unavailable = 69,  ///< MPI, device, network or another service is missing
  stopped = 75,      ///< stopped by a signal after a checkpoint; resumable
};

/// The one exception type of the project. The message is a single line that says what was wrong, where
/// (file, line, key, rank, worker, layer, step - whatever applies) and what to do about it.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, ExitCode code = ExitCode::failure) : std::runtime_error(what), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// A device, or one of its libraries, has refused or failed; the message says what was asked of it, where, and what to
/// do. Callers that know the layer, worker or step add it as the error passes.
class DeviceError : public Error {
 public:
  /// `advice`: what to do, or empty.
  explicit DeviceError(const std::string& problem, const std::string& advice = "", ExitCode code = ExitCode::failure)
      : Error(advice.empty() ? problem : problem + "; " + advice, code), problem_(problem), advice_(advice) {}
  /// Returns the same error with a place added; the first place added is the innermost.
  DeviceError at(const std::string& place) const { return DeviceError(problem_ + ", " + place, advice_, code()); }

 private:
  std::string problem_, advice_;
};

/// Thrown in workers that were interrupted because another worker or rank failed first. Never the cause itself, which
/// is reported once, where it occurred.
class Aborted : public Error {
 public:
  Aborted() : Error("stopped because another worker failed") {}
};

}  // namespace syncbn
