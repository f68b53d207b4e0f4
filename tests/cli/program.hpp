#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace syncbn::test {

struct Outcome {
  int code = -1;  ///< exit code, or 128 + signal
  std::string out, err;
};

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Starts programs in a folder of its own, which is removed at the end.
class Sandbox {
 public:
  Sandbox();
  ~Sandbox();
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  /// `syncbn ARGUMENTS`, without any launcher's variables in its environment but those in `environment` ("NAME=VALUE").
  Outcome syncbn(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}) const;
  /// `mpirun -n RANKS syncbn ARGUMENTS`.
  Outcome mpirun(int ranks, const std::vector<std::string>& arguments,
                 const std::vector<std::string>& environment = {}) const;
  /// `sh SCRIPT PROGRAM`, for what needs redirections.
  Outcome shell(const std::string& script) const;
  /// Starts `syncbn ARGUMENTS`, sends the signal as soon as `file` exists, so many times, and waits for the end.
  Outcome signalled(const std::vector<std::string>& arguments, const std::string& file, int signal,
                    int times = 1) const;

  std::filesystem::path file(const std::string& name) const { return folder_ / name; }
  std::string read(const std::string& name) const;
  void write(const std::string& name, const std::string& text) const;

 private:
  int start(const std::vector<std::string>& command, const std::vector<std::string>& environment) const;
  Outcome finish(int process) const;
  std::filesystem::path folder_;
};

}  // namespace syncbn::test
