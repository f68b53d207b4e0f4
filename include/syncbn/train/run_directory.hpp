#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncbn {

/// A run's folder: config.yaml (resolved), overrides.txt, command.txt, environment.json, log.txt, metrics.jsonl,
/// summary.json, checkpoints/, final.safetensors. Only worker 0's process writes (other ranks: log.rankN.txt,
/// crash-rankN.txt).
class RunDirectory {
 public:
  /// Creates the folder exclusively; an existing non-empty one is Error(usage) with the remedy (--resume, or another
  /// output.dir).
  static RunDirectory create(const std::string& path, const std::string& config_yaml,
                             const std::vector<std::string>& overrides, const std::vector<std::string>& command);
  /// Opens an existing one to go on. Error(usage) if it holds another experiment (experiment_yaml differs: names the
  /// first differing line). Creates it when absent.
  static RunDirectory resume(const std::string& path, const std::string& config_yaml,
                             const std::string& experiment_yaml, const std::vector<std::string>& overrides,
                             const std::vector<std::string>& command);

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Appends one JSON object (one line, flushed) to metrics.jsonl.
  void append_metrics(const std::string& json_line);
  /// Drops lines of metrics.jsonl with "step" greater than this (resume after a crash), and a torn last line.
  void truncate_metrics(std::int64_t step);
  /// Writes summary.json durably.
  void write_summary(const std::string& json);

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace syncbn
