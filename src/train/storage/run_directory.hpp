#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

class FolderLock;
struct Config;

/// A run's folder: config.yaml (resolved), overrides.txt and environment.json (all of the latest start), command.txt
/// (one line per start), log.txt, metrics.jsonl, probes.jsonl (with probes), summary.json, checkpoints/,
/// final.safetensors. Only worker 0's process writes (other ranks: log.rankN.txt, crash-rankN.txt). The object, and its
/// copies, hold a lock (`.lock`): create() and resume() throw Error(usage) while another process holds it, naming that
/// process and its host. What writes throws Error where the folder has been removed or taken over since.
class RunDirectory {
 public:
  /// Throws Error(usage) with the remedy where create() or resume() would: for a file, and for a folder that is not
  /// empty unless a run in it may go on. What a start leaves that failed at once does not count.
  static void require_usable(const std::string& path, bool resume);
  /// Creates the folder exclusively; an existing one must be usable.
  static RunDirectory create(const std::string& path, const std::string& config_yaml,
                             const std::vector<std::string>& overrides, const std::vector<std::string>& command);
  /// Opens an existing one to go on. Error(usage) if it holds another experiment (experiment_yaml differs from that of
  /// the stored config.yaml, wherever the data are: names the first differing line). Creates it when absent or empty.
  static RunDirectory resume(const std::string& path, const Config& given, const std::vector<std::string>& overrides,
                             const std::vector<std::string>& command);

  const std::string& path() const { return path_; }
  const std::shared_ptr<const FolderLock>& lock() const { return lock_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Appends one JSON object (one line, flushed) to metrics.jsonl.
  void append_metrics(const std::string& json_line);
  /// Appends whole lines, each a JSON object, to probes.jsonl.
  void append_probes(const std::string& json_lines);
  /// Drops lines of metrics.jsonl and probes.jsonl with "step" greater than this (resume after a crash), and torn ones.
  /// The greatest step that is left in metrics.jsonl, 0 if there is none.
  std::int64_t truncate_metrics(std::int64_t step);
  /// Paths of metrics.jsonl and probes.jsonl, whether they are there or not.
  std::vector<std::string> logs() const;
  /// Write final.safetensors and summary.json durably.
  void write_weights(std::span<const std::byte> bytes);
  void write_summary(const std::string& json);

 private:
  RunDirectory(std::string path, std::shared_ptr<const FolderLock> lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  static RunDirectory start(std::string path, std::shared_ptr<const FolderLock> lock, const std::string& config_yaml,
                            const std::vector<std::string>& overrides, const std::vector<std::string>& command);
  void record_start(const std::string& config_yaml, const std::vector<std::string>& overrides,
                    const std::vector<std::string>& command);

  std::string path_;
  std::shared_ptr<const FolderLock> lock_;
};

}  // namespace syncbn
