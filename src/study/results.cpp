#include "study/results.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/checkpoint.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/folder_lock.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kSchema = 1;
constexpr const char* kPlan = "/study.json";
constexpr const char* kOutcome = "/outcome.json";

/// Numbers of a summary that say where and how fast it was trained.
const std::vector<std::string> kMachineKeys = {"seconds", "images_per_second", "peak_rss_bytes", "ranks", "threads"};
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
  const std::vector<std::string> names = names_in(path);
  return std::all_of(names.begin(), names.end(), [&first](const std::string& name) { return first.contains(name); });
}

/// A trial's fields under their names in study.json and trials.jsonl, in the order in which they stand there.
template <class Row, class Visit>
void for_each_field(Row& r, const Visit& visit) {
  visit("trial", r.hash);
  visit("folder", r.folder);
  visit("point", r.point);
  visit("label", r.label);
  visit("values", r.values);
  visit("settings", r.settings);
  visit("seed", r.seed);
  visit("lr_factor", r.lr_factor);
  visit("search", r.search);
  visit("workers", r.workers);
  visit("samples_per_worker", r.samples_per_worker);
  visit("global_batch", r.global_batch);
  visit("norm", r.norm);
  visit("norm_group", r.norm_group);
  visit("bn_span", r.bn_span);
  visit("lr", r.lr);
  visit("steps", r.steps);
  visit("parameters", r.parameters);
  visit("messages_per_update", r.messages);
  visit("bytes_per_update", r.bytes);
  visit("estimate_s", r.estimate_s);
  visit("experiment", r.experiment);
}

template <class T>
void put(Json& j, const T& value) {
  j = value;
}
void put(Json& j, const TrialRow::Settings& settings) {
  j = Json::object();
  for (const auto& [key, value] : settings) j[key] = value;
}

template <class T>
void take(const Json& j, T& value) {
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
    static_cast<void>(j.get_ref<const Json::number_integer_t&>());  // throws for a fraction
  j.get_to(value);
}
void take(const Json& j, std::vector<int>& values) {
  for (const Json& value : j) take(value, values.emplace_back());
}
void take(const Json& j, TrialRow::Settings& settings) {
  for (const auto& [key, value] : j.items()) settings.emplace_back(key, value.get<std::string>());
}

Json row_json(const TrialRow& row) {
  Json j{{"schema", kSchema}};
  for_each_field(row, [&](const char* name, const auto& value) { put(j[name], value); });
  return j;
}

TrialRow row_of(const Json& j) {
  TrialRow row;
  for_each_field(row, [&](const char* name, auto& value) { take(j.at(name), value); });
  return row;
}

/// Whether reports can look the trial up in the study's dimensions, and multiply its figures.
bool fits(const TrialRow& row, const Results& r) {
  std::int64_t product = 0;
  const auto overflows = [&](std::int64_t n) { return __builtin_mul_overflow(n, row.steps, &product); };
  const auto known = [](int value, const Results::Axis& d) { return value >= 0 && value < std::ssize(d.labels); };
  return std::equal(row.values.begin(), row.values.end(), r.dimensions.begin(), r.dimensions.end(), known) &&
         !overflows(row.messages) && !overflows(row.bytes);
}

Json outcome_json(const Outcome& o) {
  return Json{{"schema", kSchema},
              {"status", name_of(o.status)},
              {"message", o.message},
              {"metrics", o.metrics},
              {"machine", o.machine}};
}

/// Nothing where it has a status that there is not.
std::optional<Outcome> outcome_of(const Json& j) {
  Outcome o;
  const auto statuses = {Outcome::Status::done, Outcome::Status::diverged, Outcome::Status::failed};
  const auto named = [&](Outcome::Status status) { return j.at("status") == name_of(status); };
  const auto status = std::find_if(statuses.begin(), statuses.end(), named);
  if (status == statuses.end()) return std::nullopt;
  o.status = *status;
  j.at("message").get_to(o.message);
  j.at("metrics").get_to(o.metrics);
  j.at("machine").get_to(o.machine);
  return o;
}

std::optional<Outcome> load_outcome(const std::string& file) {
  if (!path_exists(file)) return std::nullopt;
  try {
    if (auto outcome = outcome_of(parse(file))) return outcome;
  } catch (const Json::exception&) {
  }
  throw Error(fmt::format("{}: damaged; remove it, and start the study again", file), ExitCode::bad_data);
}

std::string cell_of(const Json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "1" : "0";
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.is_string() ? csv_cell(value.get_ref<const std::string&>()) : value.dump();
}

/// What trials.jsonl says of a trial that has ended.
Json line_of(const TrialRow& row) {
  Json line = row_json(row);
  line.update(outcome_json(*row.outcome));
  return line;
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
  return status == Outcome::Status::done ? "done" : status == Outcome::Status::diverged ? "diverged" : "failed";
}

StudyDirectory::StudyDirectory(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  if (fs::exists(path_, ignored) && !fs::is_directory(path_, ignored))
    throw Error(fmt::format("{} is a file; choose another --output", path_), ExitCode::usage);
  if (path_exists(path_) && !path_exists(path_ + kPlan) && !is_fresh(path_)) {
    throw Error(fmt::format("{} is not empty, and holds no study; choose another --output", path_), ExitCode::usage);
  }
  make_folder(path_ + "/trials");
  lock_ = std::make_shared<const FolderLock>(path_);
  for (const std::string& name : names_in(path_ + "/trials"))
    folders_.emplace(name.substr(name.rfind('-') + 1), "trials/" + name);
}

std::string StudyDirectory::folder_of(const std::string& hash, const std::string& label, std::uint64_t seed) const {
  const auto found = folders_.find(hash);
  return found != folders_.end() ? found->second : fmt::format("trials/{}-seed-{}-{}", slug(label), seed, hash);
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

bool StudyDirectory::has_only_summary(const std::string& folder) const {
  const std::string path = path_ + "/" + folder;
  return !path_exists(path + kOutcome) && path_exists(path + "/summary.json") &&
         CheckpointStore(path, 1, false).steps().empty();
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
      (std::ranges::count(kMachineKeys, key) > 0 ? outcome.machine : outcome.metrics)[key] = value.get<double>();
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
  if (outcome.status != Outcome::Status::failed) remove_checkpoints(folder);
}

void StudyDirectory::remove_checkpoints(const std::string& folder) const {
  std::error_code ignored;
  fs::remove_all(path_ + "/" + folder + "/checkpoints", ignored);
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
  const auto damaged = [plan = dir + kPlan](const char* what) {
    const std::string remedy = "start the study again, finished trials stay";
    return Error(fmt::format("{}: damaged ({}); {}", plan, what, remedy), ExitCode::bad_data);
  };
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
      if (!fits(row, r)) throw damaged("a trial that is not of this study");
      row.outcome = load_outcome(dir + "/" + row.folder + kOutcome);
      r.rows.push_back(std::move(row));
    }
    return r;
  } catch (const Json::exception& e) {
    throw damaged(e.what());
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
  // A column is a name, and the part of a line of trials.jsonl that has it ("": the line itself).
  std::vector<std::pair<std::string, std::string>> columns;
  const auto add = [&](const char* part, const auto& names) {
    for (const auto& name : names) columns.emplace_back(part, name);
  };
  add("", std::vector{"trial", "status", "point", "label", "seed", "lr_factor", "search"});
  add("settings", varied);
  add("", std::vector{"workers", "samples_per_worker", "global_batch", "norm", "norm_group", "bn_span", "lr", "steps",
                      "parameters", "messages_per_update", "bytes_per_update"});
  add("metrics", metrics);
  add("", std::vector{"message"});
  add("machine", kMachineKeys);

  std::vector<std::string> cells;
  for (const auto& [part, name] : columns) cells.push_back(csv_cell(name));
  std::string csv = fmt::format("{}\n", fmt::join(cells, ","));
  for (const TrialRow& row : results.rows) {
    if (!row.outcome) continue;
    const Json line = line_of(row);
    cells.clear();
    for (const auto& [part, name] : columns) {
      const Json& values = part.empty() ? line : line.at(part);
      cells.push_back(values.contains(name) ? cell_of(values.at(name)) : "");
    }
    csv += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return csv;
}

std::string to_jsonl(const Results& results) {
  std::string lines;
  for (const TrialRow& r : results.rows) {
    if (!r.outcome) continue;
    lines += line_of(r).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  return lines;
}

}  // namespace syncbn
