#include "train/reporting/reporter.hpp"

#include <fmt/format.h>

#include <spdlog/spdlog.h>
#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "core/text.hpp"
#include "train/storage/scalars.hpp"

namespace syncbn {

namespace {

constexpr int kMetricsSchema = 1, kProbesSchema = 1;

}  // namespace

Reporter::Reporter(const Experiment& experiment, RunDirectory& directory, std::int64_t first_step,
                   const TrainRequest& request)
    : experiment_(experiment),
      directory_(directory),
      progress_(!request.watch),
      watch_(request.watch),
      first_step_(first_step),
      last_accuracy_(std::numeric_limits<double>::quiet_NaN()) {
  if (!experiment.config.output.tensorboard) return;
  events_ = std::make_unique<EventFile>(directory.path(), first_step);
  if (!request.hyperparameters.empty()) events_->hyperparameters(request.hyperparameters);
}

double Reporter::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void Reporter::step(std::int64_t step, double lr, const TrainStatistics& update, const WorkerTimes& times) {
  if (last_step_s_) {
    const double elapsed = std::max(0.0, times.now_s - *last_step_s_), images = static_cast<double>(update.samples);
    images_ += images;
    train_seconds_ += elapsed;
    recent_images_ = 0.95 * recent_images_ + images;
    recent_seconds_ = 0.95 * recent_seconds_ + elapsed;
  }
  last_step_s_ = times.now_s;
  last_step_at_ = Clock::now();
  const double recent_rate = recent_seconds_ > 0 ? recent_images_ / recent_seconds_ : 0;
  interval_.add(update.loss_sum, update.correct, update.samples);

  const std::int64_t total = experiment_.total_steps;
  const double epoch = static_cast<double>(step * experiment_.config.train.accumulate) /
                       static_cast<double>(experiment_.batches_per_epoch);
  ProgressState state;
  state.done = step;
  state.total = total;
  state.epoch = epoch;
  state.images_per_second = recent_rate;
  state.loss = update.loss();
  state.accuracy = last_accuracy_;
  const double per_step =
      (train_seconds_ - earlier_train_seconds_) / std::max<double>(1, static_cast<double>(step - first_step_ - 1));
  state.eta_s = per_step * static_cast<double>(total - step);
  state.wait_statistics = times.waited_statistics;
  state.wait_gradients = times.waited_gradients;
  progress_.update(state);
  if (watch_) watch_(state);

  if (step % experiment_.config.train.log_every != 0 && step != total) return;
  nlohmann::ordered_json line{{"schema", kMetricsSchema},
                              {"kind", "train"},
                              {"step", step},
                              {"epoch", epoch},
                              {"loss", interval_.loss()},
                              {"accuracy", interval_.accuracy()},
                              {"lr", lr},
                              {"samples", interval_.samples},
                              {"seconds", seconds()},
                              {"images_per_second", recent_rate},
                              {"wait_statistics", times.waited_statistics},
                              {"wait_gradients", times.waited_gradients}};
  record(line);
  interval_ = {};
}

void Reporter::evaluation(std::int64_t step, const std::vector<EvalResult>& results, double best, bool final) {
  const double accuracy = results.front().accuracy, loss = results.front().loss;
  last_accuracy_ = accuracy;
  const double epoch = static_cast<double>(step * experiment_.config.train.accumulate) /
                       static_cast<double>(experiment_.batches_per_epoch);
  nlohmann::ordered_json line{{"schema", kMetricsSchema}, {"kind", "eval"},      {"step", step},
                              {"epoch", epoch},           {"loss", loss},        {"accuracy", accuracy},
                              {"best_accuracy", best},    {"seconds", seconds()}};
  if (results.front().top5_accuracy) line["top5_accuracy"] = *results.front().top5_accuracy;
  std::string others;
  for (std::size_t i = 1; i < results.size(); ++i) {
    const EvalResult& r = results[i];
    line["accuracy_" + r.statistics] = r.accuracy;
    line["loss_" + r.statistics] = r.loss;
    if (r.top5_accuracy) line["top5_accuracy_" + r.statistics] = *r.top5_accuracy;
    others += fmt::format("{} {:.2f} %", i == 1 ? "; by other statistics: " + r.statistics : ", " + r.statistics,
                          100 * r.accuracy);
  }
  record(line);
  message(fmt::format("{} step {} epoch {:.2f}: {} accuracy {:.2f} %, loss {:.4f} (best {:.2f} %){}",
                      final ? "final" : "eval ", step, epoch, experiment_.config.train.eval_split, 100 * accuracy, loss,
                      100 * best, others));
  const Clock::time_point now = Clock::now();
  if (last_step_s_) *last_step_s_ += std::chrono::duration<double>(now - last_step_at_).count();
  last_step_at_ = now;
}

void Reporter::loss_scale(std::int64_t step, double scale, bool updated) {
  record({{"schema", kMetricsSchema},
          {"kind", "loss_scale"},
          {"step", step},
          {"loss_scale", scale},
          {"updated", updated}});
  message(fmt::format("loss scale {} from step {} on{}", scale, step,
                      updated ? "" : ": the gradient was not finite, the update is left out"));
}

void Reporter::probes(std::int64_t step, const std::vector<Measurement>& rows) {
  std::string lines;
  EventFile::Scalars scalars;
  for (const Measurement& row : rows) {
    nlohmann::ordered_json line{{"schema", kProbesSchema}, {"step", step}, {"probe", row.probe}, {"name", row.name}};
    for (const auto& [quantity, value] : row.values) {
      line[quantity] = value;  // null if it is not finite
      if (!std::isfinite(value)) continue;
      scalars.emplace_back(row.probe + "/" + (row.name.empty() ? quantity : row.name + "/" + quantity), value);
    }
    lines += line.dump() + "\n";
  }
  directory_.append_probes(lines);
  if (events_) events_->scalars(step, scalars);
}

void Reporter::record(const nlohmann::ordered_json& line) {
  directory_.append_metrics(line.dump());
  if (!events_) return;
  // Everything in the line that is a number, under the kind of the line.
  EventFile::Scalars scalars;
  for (const auto& [name, value] : line.items()) {
    if (name != "schema" && name != "step" && value.is_number()) {
      scalars.emplace_back(line.at("kind").get<std::string>() + "/" + name, value.get<double>());
    }
  }
  events_->scalars(line.at("step").get<std::int64_t>(), scalars);
}

void Reporter::message(const std::string& line) {
  progress_.print(line);
  if (const auto log = spdlog::get("run")) log->info(line);
}

std::map<std::string, std::string> Reporter::scalars() const {
  return {
      {"interval_loss_sum", write_exact(interval_.loss_sum)},  {"interval_correct", std::to_string(interval_.correct)},
      {"interval_samples", std::to_string(interval_.samples)}, {"seconds", write_exact(seconds())},
      {"train_seconds", write_exact(train_seconds_)},          {"images", write_exact(images_)}};
}

Reporter::Saved Reporter::saved(const std::map<std::string, std::string>& scalars) {
  constexpr double kMost = std::numeric_limits<double>::max(), kMostSeconds = 1e9;  // so that nanoseconds fit a clock
  const auto number = [&](const char* name, double most) {  // 0: checkpoints of earlier versions do not have it
    return scalars.contains(name) ? real_scalar(scalars, name, 0, most) : 0;
  };
  Saved s;
  s.interval.loss_sum = real_scalar(scalars, "interval_loss_sum", -kMost, kMost);
  s.interval.samples = whole_scalar(scalars, "interval_samples", 0);
  s.interval.correct = whole_scalar(scalars, "interval_correct", 0, s.interval.samples);
  s.seconds = number("seconds", kMostSeconds);
  s.train_seconds = number("train_seconds", kMostSeconds);
  s.images = number("images", kMost);
  return s;
}

void Reporter::restore(const std::map<std::string, std::string>& scalars) {
  const Saved s = saved(scalars);
  interval_ = s.interval;
  start_ -= std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s.seconds));
  train_seconds_ = earlier_train_seconds_ = s.train_seconds;
  images_ = s.images;
}

std::int64_t Reporter::recorded_to() const {
  std::int64_t step = first_step_;
  for (std::int64_t samples = interval_.samples; samples > 0 && step > 0; --step)
    samples -= experiment_.samples_in_step(step - 1);
  return step;
}

}  // namespace syncbn
