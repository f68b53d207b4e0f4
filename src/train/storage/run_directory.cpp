#include "train/storage/run_directory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <system_error>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/config.hpp"
#include "train/storage/checkpoint.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/environment.hpp"
#include "train/storage/folder_lock.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.yaml";
constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kProbes = "probes.jsonl";
constexpr const char* kSummary = "summary.json";

void append_line(const std::string& path, const std::string& line) {
  append_to_file(path, line + "\n");
}

/// Whether the folder holds nothing but what is left by a start that was interrupted before it wrote config.yaml.
bool is_fresh(const std::string& path) {
  const std::vector<std::string> names = names_in(path);
  return std::all_of(names.begin(), names.end(), [](const std::string& name) {
    return name == kLockName || name == std::string(kConfig) + ".tmp";
  });
}

// Puts the enclosing keys in front of a YAML line: "norm: eps: 1e-5".
struct KeyPath {
  std::vector<std::pair<std::size_t, std::string>> parents;  // indentation, "key: "

  std::string follow(std::string_view line) {
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size());
    const std::string text(line.substr(indent));
    while (!parents.empty() && parents.back().first >= indent) parents.pop_back();
    std::string result;
    for (const auto& parent : parents) result += parent.second + " ";
    if (text.ends_with(':')) parents.emplace_back(indent, text);
    return result + text;
  }
};

/// Without data.path: a checkpoint knows the data by their fingerprint, and a path can be written in many ways.
std::string experiment_of(Config config) {
  config.data.path.clear();
  return experiment_yaml(config);
}

void require_same_experiment(const std::string& path, const std::string& stored, const std::string& given) {
  if (stored == given) return;
  std::string_view left = stored, right = given;
  KeyPath left_path, right_path;
  std::string left_line, right_line;
  do {
    left_line = left_path.follow(take_line(left));
    right_line = right_path.follow(take_line(right));
  } while (left_line == right_line && !(left.empty() && right.empty()));
  std::string longer;
  if (left_line.starts_with("train: epochs:") || left_line.starts_with("train: steps:")) {
    longer = fmt::format(
        " (where model.weights={}/last goes on from its weights alone: optimizer, schedule and order of the samples "
        "begin anew)",
        path);
  }
  throw Error(fmt::format("{} holds another experiment: it has \"{}\", this one has \"{}\"; use the same "
                          "configuration, or choose another output.dir{}",
                          path, left_line, right_line, longer),
              ExitCode::usage);
}

void remove_temporary_files(const std::string& path) {
  for (const std::string& name : names_in(path)) {
    std::error_code ignored;
    if (name.ends_with(".tmp")) fs::remove(path + "/" + name, ignored);
  }
}

/// Keeps the lines of a log that belong to the run up to `step`. The greatest step among them; 0: none.
std::int64_t truncate_lines(const std::string& path, std::int64_t step) {
  if (!path_exists(path)) return 0;
  const std::string text = read_text(path);
  std::string kept;
  std::int64_t greatest = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = take_line(rest);
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) continue;  // torn
    const auto found = json.find("step");
    const bool has_step = found != json.end() && found->is_number_integer();
    const std::int64_t at = has_step ? found->get<std::int64_t>() : 0;
    if (at > step) continue;
    kept += std::string(line) + "\n";
    greatest = std::max(greatest, at);
  }
  if (kept != text) write_text(path, kept);
  return greatest;
}

}  // namespace

void RunDirectory::require_usable(const std::string& path, bool resume) {
  if (!path_exists(path)) return;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    throw Error(fmt::format("{} is a file; choose another output.dir", path), ExitCode::usage);
  }
  if (resume || is_fresh(path)) return;
  throw Error(
      fmt::format("{} is not empty; add --resume to go on with the run in it, or choose another output.dir", path),
      ExitCode::usage);
}

RunDirectory RunDirectory::create(const std::string& path, const std::string& config_yaml,
                                  const std::vector<std::string>& overrides, const std::vector<std::string>& command) {
  require_usable(path, false);
  make_folder(path);
  auto lock = std::make_shared<const FolderLock>(path);
  require_usable(path, false);  // another process may have run to its end since
  return start(path, std::move(lock), config_yaml, overrides, command);
}

RunDirectory RunDirectory::resume(const std::string& path, const Config& given,
                                  const std::vector<std::string>& overrides, const std::vector<std::string>& command) {
  make_folder(path);
  auto lock = std::make_shared<const FolderLock>(path);
  if (is_fresh(path)) return start(path, std::move(lock), to_yaml(given), overrides, command);
  const std::string config = path + "/" + kConfig;
  if (!path_exists(config)) {
    throw Error(fmt::format("{} holds no run (there is no {}); choose another output.dir", path, kConfig),
                ExitCode::usage);
  }
  std::vector<std::string> unread;  // an earlier version may have written values that nothing reads
  const Config stored = parse_config(read_text(config), config, {}, {}, &unread);
  require_same_experiment(path, experiment_of(stored), experiment_of(given));
  if (path_exists(path + "/" + kSummary) && CheckpointStore(path, 1, false).steps().empty())  // a study removes them
    throw Error(
        fmt::format("{} holds a run that has ended, without a checkpoint; its result is in {}/{}; choose another "
                    "output.dir to train it again",
                    path, path, kSummary),
        ExitCode::usage);
  remove_temporary_files(path);
  return start(path, std::move(lock), to_yaml(given), overrides, command);
}

RunDirectory RunDirectory::start(std::string path, std::shared_ptr<const FolderLock> lock,
                                 const std::string& config_yaml, const std::vector<std::string>& overrides,
                                 const std::vector<std::string>& command) {
  RunDirectory run(std::move(path), std::move(lock));
  run.record_start(config_yaml, overrides, command);
  return run;
}

void RunDirectory::record_start(const std::string& config_yaml, const std::vector<std::string>& overrides,
                                const std::vector<std::string>& command) {
  write_text(file(kConfig), config_yaml);
  std::string text;
  for (const std::string& override_text : overrides) text += override_text + "\n";
  write_text(file("overrides.txt"), text);
  write_text(file("environment.json"), environment_json());
  append_line(file("command.txt"), shell_line(command));
}

void RunDirectory::append_metrics(const std::string& json_line) {
  lock_->require_held();
  append_line(file(kMetrics), json_line);
}

void RunDirectory::append_probes(const std::string& json_lines) {
  lock_->require_held();
  append_to_file(file(kProbes), json_lines);
}

std::int64_t RunDirectory::truncate_metrics(std::int64_t step) {
  truncate_lines(file(kProbes), step);
  return truncate_lines(file(kMetrics), step);
}

std::vector<std::string> RunDirectory::logs() const {
  return {file(kMetrics), file(kProbes)};
}

void RunDirectory::write_weights(std::span<const std::byte> bytes) {
  lock_->require_held();
  write_file_durably(file("final.safetensors"), bytes);
}

void RunDirectory::write_summary(const std::string& json) {
  lock_->require_held();
  write_text(file(kSummary), json);
}

}  // namespace syncbn
