#include "study/results.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "syncbn/core/error.hpp"
#include "train/durable_file.hpp"
#include "train/folder_lock.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kSchema = 1;
constexpr const char* kPlan = "/study.json";
constexpr const char* kOutcome = "/outcome.json";

/// Numbers of a summary that say where and how fast it was trained.
const std::set<std::string> kMachineKeys = {"seconds", "images_per_second", "peak_rss_bytes", "ranks", "threads"};
/// Numbers of a summary that the row has already.
const std::set<std::string> kKnownKeys = {"schema",       "workers",    "samples_per_worker",
                                          "global_batch", "parameters", "steps"};

/// Letters, digits, dots and single dashes of a label.
std::string slug(const std::string& label) {
  constexpr std::size_t kMaxLetters = 64;
  std::string text;
  for (const char c : label) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.';
    if (plain) text += c;
    if (!plain && !text.empty() && text.back() != '-') text += '-';
  }
  text = text.substr(0, kMaxLetters);
  while (text.ends_with('-')) text.pop_back();
  return text;
}

/// Throws Json::exception for what is damaged: callers know what is to be done about it.
Json parse(const std::string& path) {
  Json json = Json::parse(read_text(path));
  static_cast<void>(json.get_ref<const Json::object_t&>());  // throws for anything but an object
  return json;
}

/// Nothing in it but what a start leaves that was interrupted before study.json was written, or a study whose
/// study.json has been taken away. The lock alone says nothing: trainings have one of the same name.
bool is_fresh(const std::string& path) {
  std::error_code ignored;
  std::set<std::string> first = {kLockName, "trials", std::string(kPlan).substr(1) + ".tmp"};
  if (fs::is_directory(path + "/trials", ignored)) {
    for (const char* table : {"trials.csv", "trials.jsonl", "report.html"})
      first.insert({table, std::string(table) + ".tmp"});
  }
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (!first.contains(it->path().filename().string())) return false;
  }
  if (error) throw_io_error("list", path, error.value());
  return true;
}

Json row_json(const TrialRow& r) {
  Json settings = Json::object();
  for (const auto& [key, value] : r.settings) settings[key] = value;
  return Json{{"schema", kSchema},
              {"trial", r.hash},
              {"folder", r.folder},
              {"point", r.point},
              {"label", r.label},
              {"values", r.values},
              {"settings", settings},
              {"seed", r.seed},
              {"lr_factor", r.lr_factor},
              {"search", r.search},
              {"workers", r.workers},
              {"samples_per_worker", r.samples_per_worker},
              {"global_batch", r.global_batch},
              {"norm", r.norm},
              {"norm_group", r.norm_group},
              {"bn_span", r.bn_span},
              {"lr", r.lr},
              {"steps", r.steps},
              {"parameters", r.parameters},
              {"messages_per_update", r.messages},
              {"bytes_per_update", r.bytes},
              {"estimate_s", r.estimate_s},
              {"experiment", r.experiment}};
}

TrialRow row_of(const Json& j) {
  TrialRow r;
  j.at("trial").get_to(r.hash);
  j.at("folder").get_to(r.folder);
  j.at("point").get_to(r.point);
  j.at("label").get_to(r.label);
  j.at("values").get_to(r.values);
  for (const auto& [key, value] : j.at("settings").items()) r.settings.emplace_back(key, value.get<std::string>());
  j.at("seed").get_to(r.seed);
  j.at("lr_factor").get_to(r.lr_factor);
  j.at("search").get_to(r.search);
  j.at("workers").get_to(r.workers);
  j.at("samples_per_worker").get_to(r.samples_per_worker);
  j.at("global_batch").get_to(r.global_batch);
  j.at("norm").get_to(r.norm);
  j.at("norm_group").get_to(r.norm_group);
  j.at("bn_span").get_to(r.bn_span);
  j.at("lr").get_to(r.lr);
  j.at("steps").get_to(r.steps);
  j.at("parameters").get_to(r.parameters);
  j.at("messages_per_update").get_to(r.messages);
  j.at("bytes_per_update").get_to(r.bytes);
  j.at("estimate_s").get_to(r.estimate_s);
  j.at("experiment").get_to(r.experiment);
  return r;
}

Json outcome_json(const Outcome& o) {
  return Json{{"schema", kSchema},
              {"status", name_of(o.status)},
              {"message", o.message},
              {"metrics", o.metrics},
              {"machine", o.machine}};
}

Outcome outcome_of(const Json& j) {
  Outcome o;
  const auto status = j.at("status").get<std::string>();
  o.status = status == "done"       ? Outcome::Status::done
             : status == "diverged" ? Outcome::Status::diverged
                                    : Outcome::Status::failed;
  j.at("message").get_to(o.message);
  j.at("metrics").get_to(o.metrics);
  j.at("machine").get_to(o.machine);
  return o;
}

std::optional<Outcome> load_outcome(const std::string& file) {
  if (!path_exists(file)) return std::nullopt;
  try {
    return outcome_of(parse(file));
  } catch (const Json::exception&) {
    throw Error(fmt::format("{}: damaged; remove it, and the trial is run again", file), ExitCode::bad_data);
  }
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

void append_line(std::string& csv, const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) csv += (i == 0 ? "" : ",") + csv_cell(cells[i]);
  csv += "\n";
}

std::string value_in(const std::map<std::string, double>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? "" : fmt::format("{}", found->second);
}

}  // namespace

void Tally::add(const std::string& hash, const Outcome* outcome) {
  if (!seen_.insert(hash).second) return;
  ++trials;
  if (outcome == nullptr) return;
  ++ended;
  diverged += outcome->status == Outcome::Status::diverged;
  failed += outcome->status == Outcome::Status::failed;
}

Tally tally(const Results& results) {
  Tally all;
  for (const TrialRow& row : results.rows) all.add(row.hash, row.outcome ? &*row.outcome : nullptr);
  return all;
}

double Outcome::error() const {
  const auto accuracy = metrics.find("test_accuracy");
  if (status != Status::done || accuracy == metrics.end()) return std::numeric_limits<double>::quiet_NaN();
  return 100 * (1 - accuracy->second);
}

const char* name_of(Outcome::Status status) {
  switch (status) {
    case Outcome::Status::done:
      return "done";
    case Outcome::Status::diverged:
      return "diverged";
    case Outcome::Status::failed:
      break;
  }
  return "failed";
}

StudyDirectory::StudyDirectory(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  if (fs::exists(path_, ignored) && !fs::is_directory(path_, ignored)) {
    throw Error(fmt::format("{} is a file; choose another --output", path_), ExitCode::usage);
  }
  if (path_exists(path_) && !path_exists(path_ + kPlan) && !is_fresh(path_)) {
    throw Error(fmt::format("{} is not empty, and holds no study; choose another --output", path_), ExitCode::usage);
  }
  make_folder(path_ + "/trials");
  lock_ = std::make_shared<const FolderLock>(path_);
}

std::string StudyDirectory::folder_of(const std::string& hash, const std::string& label, std::uint64_t seed) const {
  std::error_code error;
  for (fs::directory_iterator it(path_ + "/trials", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with("-" + hash)) return "trials/" + name;
  }
  return fmt::format("trials/{}-seed-{}-{}", slug(label), seed, hash);
}

std::set<std::string> StudyDirectory::finished() const {
  std::set<std::string> hashes;
  try {
    for (const TrialRow& row : path_exists(path_ + kPlan) ? read_results(path_).rows : std::vector<TrialRow>{}) {
      if (row.outcome) hashes.insert(row.hash);
    }
  } catch (const Error&) {
    // A damaged study.json is written anew.
  }
  return hashes;
}

std::optional<Outcome> StudyDirectory::read_outcome(const std::string& folder) const {
  return load_outcome(path_ + "/" + folder + kOutcome);
}

Outcome StudyDirectory::read_summary(const std::string& folder) const {
  const std::string file = path_ + "/" + folder + "/summary.json";
  if (!path_exists(file)) {
    throw Error(
        fmt::format("{} is missing after the end of the training; the folder of a study must be the same on all "
                    "hosts: choose another --output",
                    file));
  }
  Outcome outcome;
  try {
    const Json summary = parse(file);
    for (const auto& [key, value] : summary.items()) {
      if (!value.is_number() || kKnownKeys.contains(key)) continue;
      (kMachineKeys.contains(key) ? outcome.machine : outcome.metrics)[key] = value.get<double>();
    }
  } catch (const Json::exception&) {
    throw Error(fmt::format("{}: damaged; remove it, and start the study again", file), ExitCode::bad_data);
  }
  return outcome;
}

void StudyDirectory::write_outcome(const std::string& folder, const Outcome& outcome) const {
  lock_->require_held();
  const std::string path = path_ + "/" + folder;
  make_folder(path);  // a trial may have failed before it had one
  write_text(path + kOutcome, outcome_json(outcome).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  std::error_code ignored;
  if (outcome.status != Outcome::Status::failed) fs::remove_all(path + "/checkpoints", ignored);
}

void StudyDirectory::write_plan(const Results& r) const {
  Json dimensions = Json::array(), trials = Json::array();
  for (const auto& d : r.dimensions) {
    dimensions.push_back({{"keys", d.keys}, {"named", d.named}, {"labels", d.labels}});
  }
  for (const TrialRow& row : r.rows) trials.push_back(row_json(row));
  const Json plan{{"schema", kSchema},
                  {"name", r.name},
                  {"title", r.title},
                  {"text", r.text},
                  {"version", r.version},
                  {"command", r.command},
                  {"interval_below", r.interval_below},
                  {"dimensions", dimensions},
                  {"trials", trials}};
  lock_->require_held();
  write_text(path_ + kPlan, plan.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void StudyDirectory::write_tables(const Results& results) const {
  lock_->require_held();
  write_text(path_ + "/trials.csv", to_csv(results));
  write_text(path_ + "/trials.jsonl", to_jsonl(results));
}

Results read_results(const std::string& dir) {
  if (!path_exists(dir + kPlan)) {
    throw Error(fmt::format("{} holds no study (there is no study.json); name the --output folder of a study", dir),
                ExitCode::usage);
  }
  try {
    const Json j = parse(dir + kPlan);
    Results r;
    r.dir = dir;
    j.at("name").get_to(r.name);
    j.at("title").get_to(r.title);
    j.at("text").get_to(r.text);
    j.at("version").get_to(r.version);
    j.at("command").get_to(r.command);
    r.interval_below = j.value("interval_below", 0.0);
    for (const Json& d : j.at("dimensions")) {
      r.dimensions.push_back({d.at("keys").get<std::vector<std::string>>(), d.at("named").get<bool>(),
                              d.at("labels").get<std::vector<std::string>>()});
    }
    for (const Json& t : j.at("trials")) {
      TrialRow row = row_of(t);
      row.outcome = load_outcome(dir + "/" + row.folder + kOutcome);
      r.rows.push_back(std::move(row));
    }
    return r;
  } catch (const Json::exception& e) {
    throw Error(fmt::format("{}{}: damaged ({}); start the study again, finished trials stay", dir, kPlan, e.what()),
                ExitCode::bad_data);
  }
}

std::string to_csv(const Results& results) {
  std::vector<std::string> varied;
  std::set<std::string> metrics;
  for (const auto& d : results.dimensions) {
    for (const std::string& key : d.keys) {
      if (key != "workers") varied.push_back(key);  // a column of its own anyway
    }
  }
  for (const TrialRow& r : results.rows) {
    if (!r.outcome) continue;
    for (const auto& [key, value] : r.outcome->metrics) metrics.insert(key);
  }
  std::vector<std::string> columns = {"trial", "status", "point", "label", "seed", "lr_factor", "search"};
  columns.insert(columns.end(), varied.begin(), varied.end());
  for (const char* name : {"workers", "samples_per_worker", "global_batch", "norm", "norm_group", "bn_span", "lr",
                           "steps", "parameters", "messages_per_update", "bytes_per_update"}) {
    columns.emplace_back(name);
  }
  columns.insert(columns.end(), metrics.begin(), metrics.end());
  columns.emplace_back("message");
  const std::vector<std::string> machine = {"seconds", "images_per_second", "peak_rss_bytes", "ranks", "threads"};
  columns.insert(columns.end(), machine.begin(), machine.end());

  std::string csv;
  append_line(csv, columns);
  for (const TrialRow& r : results.rows) {
    if (!r.outcome) continue;
    const auto setting = [&](const std::string& key) {
      for (const auto& [name, value] : r.settings) {
        if (name == key) return value;
      }
      return std::string();
    };
    std::vector<std::string> cells = {r.hash,
                                      name_of(r.outcome->status),
                                      std::to_string(r.point),
                                      r.label,
                                      std::to_string(r.seed),
                                      fmt::format("{}", r.lr_factor),
                                      r.search ? "1" : "0"};
    for (const std::string& key : varied) cells.push_back(setting(key));
    for (const std::int64_t n : {r.workers, r.samples_per_worker, r.global_batch}) cells.push_back(std::to_string(n));
    cells.insert(cells.end(), {r.norm, r.norm_group, std::to_string(r.bn_span), fmt::format("{}", r.lr)});
    for (const std::int64_t n : {r.steps, r.parameters, r.messages, r.bytes}) cells.push_back(std::to_string(n));
    for (const std::string& key : metrics) cells.push_back(value_in(r.outcome->metrics, key));
    cells.push_back(r.outcome->message);
    for (const std::string& key : machine) cells.push_back(value_in(r.outcome->machine, key));
    append_line(csv, cells);
  }
  return csv;
}

std::string to_jsonl(const Results& results) {
  std::string lines;
  for (const TrialRow& r : results.rows) {
    if (!r.outcome) continue;
    Json line = row_json(r);
    line["status"] = name_of(r.outcome->status);
    line["message"] = r.outcome->message;
    line["metrics"] = r.outcome->metrics;
    line["machine"] = r.outcome->machine;
    lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  return lines;
}

}  // namespace syncbn
