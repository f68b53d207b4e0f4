#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "study/plan/plan.hpp"
#include "study/study.hpp"
#include "train/storage/folder_lock.hpp"

namespace syncbn {

/// How a trial has ended.
struct Outcome {
  enum class Status { done, diverged, failed };
  Status status = Status::done;
  std::string message;                    ///< of what ended it early
  std::map<std::string, double> metrics;  ///< numbers that are the same on any machine: test_accuracy, ...
  std::map<std::string, double> machine;  ///< seconds, images_per_second, peak_rss_bytes, ranks, threads

  /// Final test error in percent; NaN when there is none.
  double error() const;
};
const char* name_of(Outcome::Status status);

/// A trial and everything about it that its point says: what a line of trials.jsonl starts with.
struct TrialRow : Trial {
  using Settings = std::vector<std::pair<std::string, std::string>>;

  std::string folder, label;
  std::vector<int> values;  ///< per dimension
  Settings settings;        ///< varied keys
  std::int64_t workers = 0, samples_per_worker = 0, global_batch = 0, steps = 0, parameters = 0;
  std::int64_t bn_span = 0;              ///< 0: no statistics of batches
  std::int64_t messages = 0, bytes = 0;  ///< of a worker, per update
  std::string norm, norm_group;
  double lr = 0;
  double estimate_s = 0;
  std::string experiment;            ///< resolved configuration
  std::optional<Outcome> outcome{};  ///< nothing while it has not ended
};

/// What report and tables are made of: read from a study's folder.
struct Results {
  struct Axis {
    std::vector<std::string> keys;
    bool named = false;
    std::vector<std::string> labels;
  };
  std::string name, title, dir, text, version;
  std::vector<std::string> command;
  double interval_below = 0;  ///< > 0: seeds were added until half of a point's interval was below this
  std::vector<Axis> dimensions;
  std::vector<TrialRow> rows;
};

/// How many trainings there are, and how they have ended. Trials of one hash are one training.
struct Tally {
  int trials = 0, ended = 0, diverged = 0, failed = 0;

  int done() const { return ended - diverged - failed; }
  /// `outcome`: null while it has not ended.
  void add(const std::string& hash, const Outcome* outcome);

 private:
  std::set<std::string> seen_;
};
Tally tally(const Results& results);

/// The folder of a study: study.json (what is planned), trials/<label>-<hash> (a run directory each, with outcome.json
/// once it has ended), trials.csv, trials.jsonl, report.html.
class StudyDirectory {
 public:
  /// Creates or opens it, for one process at a time.
  explicit StudyDirectory(std::string path);

  const std::string& path() const { return path_; }
  /// Run directory of a trial: that of an earlier start, whatever its label was then, or a new name.
  std::string folder_of(const std::string& hash, const std::string& label, std::uint64_t seed) const;
  /// Hashes of the trials that have ended of those in study.json, as an earlier start left it.
  std::set<std::string> finished() const;
  /// Nothing when the trial has not ended.
  std::optional<Outcome> read_outcome(const std::string& folder) const;
  /// Whether a training has ended whose outcome.json is gone, and whose checkpoints are not there to go on from.
  bool has_only_summary(const std::string& folder) const;
  /// The outcome of a training that has come to its end, from its summary.
  Outcome read_summary(const std::string& folder) const;
  /// Commits the outcome; a finished trial's checkpoints go.
  void write_outcome(const std::string& folder, const Outcome& outcome) const;
  /// Of a finished trial: those that a kill between outcome and removal has left.
  void remove_checkpoints(const std::string& folder) const;
  void write_plan(const Results& results) const;
  /// trials.csv and trials.jsonl.
  void write_tables(const Results& results) const;

 private:
  std::string path_;
  std::shared_ptr<const FolderLock> lock_;
  std::map<std::string, std::string> folders_;  // by hash, of earlier starts
};

/// Reads study.json and the outcomes beside it. Throws Error(usage) when DIR holds no study.
Results read_results(const std::string& dir);

/// One row per trial that has ended, in the order of the plan; columns that depend on the machine come last.
std::string to_csv(const Results& results);
std::string to_jsonl(const Results& results);

}  // namespace syncbn
