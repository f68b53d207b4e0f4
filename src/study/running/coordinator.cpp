#include "study/running/coordinator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/text.hpp"
#include "data/dataset.hpp"
#include "study/report/report.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/compute.hpp"
#include "train/reporting/progress_line.hpp"

namespace syncbn {
namespace {

/// The plan, which grows with each search that ends, tables and report are rewritten at most so often while trials end.
constexpr auto kBetweenWrites = std::chrono::seconds(20);

/// Fails now rather than in every trial.
void require_data(const std::vector<Point>& points) {
  std::set<std::pair<std::string, std::string>> checked;
  for (const Point& point : points) {
    const Config& c = point.config;
    if (!checked.emplace(c.data.kind, c.data.path).second) continue;
    open_dataset(c.data.kind, c.data.path, Split::train, c.seed);
    open_dataset(c.data.kind, c.data.path, Split::test, c.seed);
  }
}

/// The like for what computes; this host stands for all.
void require_devices(const std::vector<Point>& points) {
  WorldOptions alone;
  alone.threads = 1;
  std::set<std::pair<std::string, std::string>> checked;
  for (const Point& point : points) {
    const Config& c = point.config;
    if (c.device != "cpu" && checked.emplace(c.device, c.precision).second) make_backend(World::threads(alone), c);
  }
}

std::vector<Point> resolve_and_check(const Study& study) {
  std::vector<Point> points = resolve(study);
  require_devices(points);
  require_data(points);
  return points;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Coordinator::Coordinator(const StudyRequest& request, Teams& teams)
    : request_(request),
      teams_(teams),
      points_(resolve_and_check(request.study)),
      planner_(request.study, points_),
      directory_(request.dir),
      cores_(teams.ranks(), std::max(1, request.threads_per_rank)),
      jobs_(request.jobs > 0 ? request.jobs : cores_.total()),
      watch_(teams.ranks(), request.hosts) {
  const std::set<std::string> earlier = directory_.finished();
  replan();
  directory_.write_plan(results());
  announce_left_out(earlier);
  const Tally all = tally();
  table_.print(fmt::format("syncbn: {}: {}{} on {} of {}", request.study.name, counted(all.trials, "trial"),
                           all.ended > 0 ? fmt::format(", {} of them finished before,", all.ended) : "",
                           counted(teams.ranks(), "rank"), counted(request.threads_per_rank, "core")));
}

/// Tables and report are about what is planned now; of an earlier plan other trials may have ended.
void Coordinator::announce_left_out(std::set<std::string> earlier) {
  for (const Trial& trial : planned_) earlier.erase(trial.hash);
  if (earlier.empty()) return;
  table_.print(
      fmt::format("syncbn: the tables of {0} leave out {1} of another plan; {0}/trials keeps {2} "
                  "until a study asks for {2} again (--output DIR keeps studies apart)",
                  directory_.path(), counted(static_cast<std::int64_t>(earlier.size()), "finished trial"),
                  earlier.size() == 1 ? "it" : "them"));
}

void Coordinator::replan() {
  // A trial that failed for an outer reason (memory, disk) in an earlier start is tried again.
  const auto known = [this](const Trial& trial) -> const Outcome* {
    auto found = outcomes_.find(trial.hash);
    if (found == outcomes_.end() && !folders_.contains(trial.hash)) {
      const std::string folder = directory_.folder_of(trial.hash, point_of(trial).label, trial.seed);
      folders_[trial.hash] = folder;
      std::optional<Outcome> earlier = directory_.read_outcome(folder);
      if (directory_.has_only_summary(folder)) {
        earlier = directory_.read_summary(folder);
        directory_.write_outcome(folder, *earlier);
      }
      if (earlier && earlier->status != Outcome::Status::failed) {
        directory_.remove_checkpoints(folder);
        found = outcomes_.emplace(trial.hash, *earlier).first;
      }
    }
    return found == outcomes_.end() ? nullptr : &found->second;
  };
  std::vector<Trial> planned = planner_.trials([&](const Trial& trial) -> std::optional<double> {
    const Outcome* outcome = known(trial);
    return outcome == nullptr ? std::nullopt : std::optional(outcome->error());
  });
  planned_ = std::move(planned);

  std::set<std::string> taken;
  for (const auto& [job, running] : running_) taken.insert(running.trial.hash);
  waiting_.clear();
  for (const Trial& trial : planned_) {
    if (known(trial) == nullptr && taken.insert(trial.hash).second) waiting_.push_back(trial);
  }
  // Longest first, so that no long one is left for the end; searches first of all, because others wait for them.
  std::stable_sort(waiting_.begin(), waiting_.end(), [this](const Trial& a, const Trial& b) {
    if (a.search != b.search) return a.search;
    return point_of(a).seconds > point_of(b).seconds;
  });
}

void Coordinator::assign() {
  while (!stopping_ && !waiting_.empty() && static_cast<int>(running_.size()) < jobs_) {
    const auto next = std::find_if(waiting_.begin(), waiting_.end(), [this](const Trial& t) { return fits(t); });
    if (next == waiting_.end()) return;
    const Point& point = point_of(*next);
    const int open = std::min(static_cast<int>(running_.size() + waiting_.size()), jobs_);
    const auto placement =
        cores_.take(fair_share(cores_.total(), std::min(open, at_once(point))), point.config.workers);
    if (!placement) return;
    const Trial trial = *next;
    waiting_.erase(next);
    start(trial, *placement);
  }
}

int Coordinator::at_once(const Point& point) const {
  constexpr std::int64_t kMany = 1 << 20;
  if (request_.memory_bytes <= 0 || point.memory_bytes <= 0) return kMany;
  return static_cast<int>(std::clamp<std::int64_t>(request_.memory_bytes / point.memory_bytes, 1, kMany));
}

bool Coordinator::fits(const Trial& trial) const {
  if (request_.memory_bytes <= 0 || running_.empty()) return true;  // one always runs
  std::int64_t needed = point_of(trial).memory_bytes;
  for (const auto& [job, running] : running_) needed += point_of(running.trial).memory_bytes;
  return needed <= request_.memory_bytes;
}

void Coordinator::start(const Trial& trial, const Placement& placement) {
  const int job = next_job_++;
  const std::string& folder = folders_.at(trial.hash);
  const std::string path = directory_.path() + "/" + folder;
  std::filesystem::remove(path + "/outcome.json");  // of a failure that is now tried again
  const Config config = run_config(config_of(point_of(trial), trial), path, placement.threads);
  Running& running = running_[job];
  running.trial = trial;
  running.folder = folder;
  running.placement = placement;
  running.state.label = name_of_trial(trial);
  running.state.cores = placement.cores();
  TrialRow::Settings settings = row_of(trial, folder).settings;
  settings.emplace_back("seed", std::to_string(trial.seed));
  const Note note{{"do", "train"},
                  {"job", job},
                  {"ranks", placement.ranks},
                  {"config", to_yaml(config)},
                  {"folder", path},
                  {"command", request_.command},
                  {"settings", settings}};
  for (const int rank : placement.ranks) teams_.send(rank, note.dump(-1, ' ', false, Note::error_handler_t::replace));
}

void Coordinator::take(const Note& note, int from) {
  if (watch_.heard(from)) table_.print(fmt::format("syncbn: {} is heard from again", watch_.describe(from)));
  if (note.at("is") == "here") return;
  const auto found = running_.find(note.at("job").get<int>());
  if (found == running_.end()) return;
  Running& running = found->second;
  if (note.at("is") == "progress") {
    const auto number = [&](const char* key) {  // JSON has no NaN
      return note.at(key).is_number() ? note.at(key).get<double>() : std::numeric_limits<double>::quiet_NaN();
    };
    running.state.share = number("done") / std::max(1.0, number("total"));
    running.state.epoch = number("epoch");
    running.state.loss = number("loss");
    running.state.accuracy = number("accuracy");
    return;
  }
  running.ended[from] = note;
  if (running.ended.size() < running.placement.ranks.size()) return;
  const Running job = std::move(running);
  running_.erase(found);
  cores_.give_back(job.placement);
  end(job);
}

double Coordinator::patience_s() const {
  double longest = 5;  // a few signs
  for (const Point& point : points_) longest = std::max(longest, point.config.timeout_s);
  return longest;
}

void Coordinator::watch() {
  std::map<int, std::string> trials;  // by rank
  for (const auto& [job, running] : running_) {
    for (const int rank : running.placement.ranks)
      if (rank != 0 && !running.ended.contains(rank)) trials[rank] += "; " + running.state.label;
  }
  for (const auto& [rank, labels] : trials) {
    if (!watch_.missed(rank, patience_s())) continue;
    table_.print(fmt::format("syncbn: {}; it works on{}", watch_.silence(rank), labels.substr(1)));
  }
}

Outcome Coordinator::outcome_of(const Running& job) const {
  // The ranks of a team may see a failure as their own or as another's: the one that says most counts.
  const auto message_of = [&](const char* how) -> std::optional<std::string> {
    for (const auto& [rank, note] : job.ended) {
      if (note.at("how") == how) return note.at("message").get<std::string>();
    }
    return std::nullopt;
  };
  Outcome outcome;
  if (const auto diverged = message_of("diverged")) {
    outcome.status = Outcome::Status::diverged;
    outcome.message = *diverged;
  } else if (const auto failed = message_of("failed")) {
    outcome.status = Outcome::Status::failed;
    outcome.message = *failed;
  } else if (const auto aborted = message_of("aborted")) {
    outcome.status = Outcome::Status::failed;
    outcome.message = *aborted;
  } else {
    outcome = directory_.read_summary(job.folder);
  }
  outcome.machine.try_emplace("seconds", seconds_since(job.start));  // the summary's are those of all its starts
  outcome.machine["ranks"] = static_cast<double>(job.placement.ranks.size());
  outcome.machine["threads"] = job.placement.threads;
  return outcome;
}

void Coordinator::end(const Running& job) {
  for (const auto& [rank, note] : job.ended) {
    if (note.at("how") != "stopped") continue;
    stop();  // the signal reached one rank only, perhaps
    return;
  }
  const Outcome outcome = outcome_of(job);
  if (stopping_ && outcome.status == Outcome::Status::failed) return;  // it will be tried again anyway
  directory_.write_outcome(job.folder, outcome);
  outcomes_[job.trial.hash] = outcome;
  const double seconds = outcome.machine.at("seconds");
  if (outcome.status == Outcome::Status::done) {
    spent_ += seconds * job.placement.cores();
    estimated_ += point_of(job.trial).seconds;
    table_.print(
        fmt::format("done      {}: error {:.2f} %  ({})", job.state.label, outcome.error(), format_duration(seconds)));
  } else {
    table_.print(fmt::format("{:<8}  {}: {}", name_of(outcome.status), job.state.label, outcome.message));
  }
  replan();
  if (Clock::now() - written_ > kBetweenWrites) write();
}

void Coordinator::stop() {
  if (stopping_) return;
  stopping_ = true;
  table_.print("syncbn: stopping; running trials save a checkpoint first");
  for (int rank = 0; rank < teams_.ranks(); ++rank) teams_.send(rank, Note{{"do", "stop"}}.dump());
}

std::string Coordinator::name_of_trial(const Trial& trial) const {
  std::string name = point_of(trial).label;
  if (trial.search) return fmt::format("{} (search: {} x lr)", name, trial.lr_factor);
  return fmt::format("{}, seed {}", name, trial.seed);
}

double Coordinator::seconds_left() const {
  // Estimates are only good in proportion, so what has been trained so far sets the scale.
  double spent = spent_, estimated = estimated_, left = 0, longest = 0;
  for (const auto& [job, r] : running_) {
    const double whole = point_of(r.trial).seconds;
    spent += seconds_since(r.start) * r.placement.cores();
    estimated += whole * r.state.share;
    left += whole * (1 - r.state.share);
  }
  for (const Trial& trial : waiting_) left += point_of(trial).seconds;
  if (estimated <= 0 || running_.empty()) return 0;
  const double scale = spent / estimated;
  for (const auto& [job, r] : running_) {
    longest = std::max(longest, scale * point_of(r.trial).seconds * (1 - r.state.share) / r.placement.cores());
  }
  return std::max(longest, scale * left / cores_.total());
}

void Coordinator::show() {
  if (!table_.due()) return;  // to count thousands of trials takes milliseconds
  LiveState state;
  const Tally all = tally();
  state.total = all.trials;
  state.ended = all.ended;
  state.trouble = all.ended - all.done();
  state.elapsed_s = seconds_since(start_);
  state.eta_s = seconds_left();
  for (const auto& [job, running] : running_) {
    state.running.push_back(running.state);
    state.running.back().seconds = seconds_since(running.start);
  }
  table_.update(state);
}

TrialRow Coordinator::row_of(const Trial& trial, const std::string& folder) const {
  const Point& point = point_of(trial);
  const Config config = config_of(point, trial);
  TrialRow row;
  static_cast<Trial&>(row) = trial;
  row.folder = folder;
  row.label = point.label;
  row.values = point.values;
  for (std::size_t d = 0; d < point.values.size(); ++d) {
    const auto& value = request_.study.dimensions[d].values[point.values[d]];
    for (const Setting& s : value.settings) row.settings.emplace_back(s.key, s.value);
  }
  row.workers = config.workers;
  row.samples_per_worker = config.batch_per_worker;
  row.global_batch = point.sizes.global_batch;
  row.norm = config.norm.type;
  row.norm_group = config.norm.group;
  row.bn_span = shares_statistics(config.norm.type) ? point.sizes.bn_span : 0;
  row.steps = point.sizes.steps;
  row.parameters = point.sizes.parameters;
  row.messages = point.sizes.statistics_forward.messages + point.sizes.statistics_backward.messages +
                 point.sizes.gradients.messages;
  row.bytes =
      point.sizes.statistics_forward.bytes + point.sizes.statistics_backward.bytes + point.sizes.gradients.bytes;
  row.lr = point.lr * trial.lr_factor;
  row.estimate_s = point.seconds;
  row.experiment = experiment_yaml(config);
  const auto outcome = outcomes_.find(trial.hash);
  if (outcome != outcomes_.end()) row.outcome = outcome->second;
  return row;
}

Results Coordinator::results() const {
  const Study& study = request_.study;
  Results r;
  r.name = study.name;
  r.title = study.title;
  r.dir = directory_.path();
  r.text = study.text;
  r.version = SYNCBN_VERSION;
  r.command = request_.command;
  r.interval_below = study.interval_below;
  for (const Dimension& d : study.dimensions) {
    Results::Axis axis{d.keys, d.named, {}};
    for (const auto& value : d.values) axis.labels.push_back(value.label);
    r.dimensions.push_back(std::move(axis));
  }
  for (const Trial& trial : planned_) r.rows.push_back(row_of(trial, folders_.at(trial.hash)));
  return r;
}

Tally Coordinator::tally() const {
  Tally all;
  for (const Trial& trial : planned_) {
    const auto found = outcomes_.find(trial.hash);
    all.add(trial.hash, found == outcomes_.end() ? nullptr : &found->second);
  }
  return all;
}

void Coordinator::write() const {
  const Results all = results();
  directory_.write_plan(all);
  directory_.write_tables(all);
  write_report({directory_.path()}, directory_.path() + "/report.html");
  written_ = Clock::now();
}

StudyResult Coordinator::result() const {
  const Tally all = tally();
  return {all.trials, all.done(), all.diverged, all.failed, stopping_};
}

}  // namespace syncbn
