#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/teams.hpp"
#include "syncbn/train/config.hpp"
#include "train/explain/explain.hpp"

namespace syncbn {

/// One thing that a study varies: a key of a grid, the keys of a zip, or a list of alternatives.
struct Dimension {
  struct Value {
    std::string label;              ///< "norm.group=4", or the author's own
    std::vector<Setting> settings;  ///< applied to the base
  };
  std::vector<std::string> keys;
  /// Values to compare, not numbers of an axis: alternatives that all have labels, or that differ in several keys.
  bool named = false;
  std::vector<Value> values;
};

/// What a study file says. Every combination of the dimensions' values is a point; a point is trained once per seed.
struct Study {
  std::string name;               ///< stem of the file
  std::string title;              ///< one line
  std::string text;               ///< the file
  std::string base;               ///< configuration that all trials start from: a file, or the name of a shipped one
  std::vector<Setting> settings;  ///< for all trials
  std::vector<std::string> overrides;  ///< a.b=v of the command line, for all trials
  std::vector<Dimension> dimensions;
  std::vector<std::uint64_t> seeds;
  /// > 0: a point gets further seeds until it has three and half of its 95 % interval is below this (points of error)
  double interval_below = 0;
  int max_seeds = 0;  ///< ... or it has so many.
  /// Not empty: each point is first trained with these multiples of its learning rate, with a seed of their own, and
  /// goes on with the one of the lowest error, or the smallest where all diverge.
  std::vector<double> lr_factors;
  std::uint64_t lr_seed = 0;  ///< none of the seeds
};

/// Reads a study file (or, if no such file exists, one shipped in the program, by name). Overrides are a.b=v for all
/// trials, and seeds=N. Strict, as load_config(): throws Error(usage) with file, line and what to do.
Study load_study(const std::string& path, const std::vector<std::string>& overrides);
/// The same from text; `origin` stands in messages, and a relative `base` is looked for beside it.
Study parse_study(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides);

/// Studies shipped in the program (configs/study/*.yaml).
const std::vector<ShippedConfig>& shipped_studies();

/// The keys of a study file, those below another as "vary.grid". Parsing and --help come from it.
const std::vector<KeyHelp>& study_file_keys();

/// One combination of values, resolved.
struct Point {
  std::vector<int> values;  ///< index into each dimension's values
  std::string label;
  Config config;                  ///< with the first seed
  Explanation sizes;              ///< for one rank
  double lr = 0;                  ///< at the base of the schedule, after scaling to the global batch
  std::int64_t memory_bytes = 0;  ///< rough need of one trial, all ranks together
  double seconds = 0;             ///< rough time of one trial on one core
};

/// Resolves and checks every point of a study: keys, values, sizes; models are built. Throws Error(usage) naming place
/// and point.
std::vector<Point> resolve(const Study& study);

struct StudyRequest {
  Study study;
  std::string dir;                   ///< created, or gone on with
  int threads_per_rank = 1;          ///< cores of each rank
  std::int64_t memory_bytes = 0;     ///< that trials may use together; 0 = not known
  int jobs = 0;                      ///< trials at once; 0 = as many as there are cores
  std::vector<std::string> hosts;    ///< of the ranks, on every rank; empty: not known
  std::vector<std::string> command;  ///< argv, for the record
};

struct StudyResult {
  int trials = 0, done = 0, diverged = 0, failed = 0;
  bool stopped = false;  ///< by request_stop(); the same command goes on
};

/// Runs what is missing of a study in DIR: DIR/trials/<label>-<hash> is a run directory per trial, named by a hash of
/// its experiment; finished ones are never run again. Trials are spread over the ranks, several at once; their results
/// do not depend on how. Writes DIR/study.json, trials.csv, trials.jsonl and report.html. DIR must be the same folder
/// on all hosts. A trial that diverges or fails is a row; one that failed is tried again by the next run_study().
/// Called by every rank; the request is rank 0's. Throws Error when the study's own files cannot be written, on rank 0
/// with the reason and on the others with the same exit code; finished trials stay.
StudyResult run_study(const StudyRequest& request, Teams& teams);

}  // namespace syncbn
