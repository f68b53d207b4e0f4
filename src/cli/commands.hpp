#pragma once

// The subcommands of the program. Each takes what the command line said and returns the exit code; failures are
// thrown.

#include <string>
#include <vector>

#include "syncbn/core/error.hpp"

namespace syncbn::cli {

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool resume = false;
  bool log_ranks = false;
  std::vector<std::string> command;  ///< argv, for the record
};
ExitCode run_train(const TrainOptions& options);

struct StudyOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::string output;  ///< empty: studies/<name>
  int jobs = 0;        ///< trials at once; 0 = as many as cores
  bool dry_run = false;
  std::vector<std::string> command;  ///< argv, for the record
};
ExitCode run_study(const StudyOptions& options);

struct ReportOptions {
  std::vector<std::string> dirs;
  std::string output;  ///< empty: report.html in the first of them
};
ExitCode run_report(const ReportOptions& options);

struct EvalOptions {
  std::string config;       ///< configuration or run directory
  std::string weights;      ///< also "best" or "last" of the run directory; empty: its final.safetensors
  std::string split;        ///< empty: train.eval_split
  std::string predictions;  ///< CSV file; empty: none
  std::vector<std::string> overrides;
  bool log_ranks = false;
  std::vector<std::string> command;  ///< argv
};
ExitCode run_eval(const EvalOptions& options);

struct ExplainOptions {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1;
  bool measure = false;  ///< the figures below, as far as they can be measured here
  bool predict = false;  ///< some of them were given
  double sample_us = 1000, update_us = 1000, latency_us = 10, per_message_us = 1, bandwidth_gbs = 1, skew_us = 5;
  int threads = 1;
  std::vector<std::string> command;  ///< argv
};
ExitCode run_explain(const ExplainOptions& options);

ExitCode run_doctor();

struct DataOptions {
  std::vector<std::string> kinds;  ///< empty: all
  std::string path;                ///< folder that holds the data sets' folders; empty: data_root()
};
ExitCode run_data_list(const DataOptions& options);
ExitCode run_data_get(const DataOptions& options);
ExitCode run_data_check(const DataOptions& options);

/// "study/NAME", as the configurations' commands call the shipped study of this name; "" if there is none.
std::string shipped_study(const std::string& name);
ExitCode run_configs_list();
ExitCode run_configs_show(const std::string& name);
/// Never overwrites. An empty `file` means NAME.yaml here.
ExitCode run_configs_copy(const std::string& name, const std::string& file);

}  // namespace syncbn::cli
