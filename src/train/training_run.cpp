#include "train/training_run.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "core/console.hpp"
#include "syncbn/core/text.hpp"
#include "train/compute.hpp"
#include "train/device_optimizer.hpp"
#include "train/durable_file.hpp"
#include "train/state_io.hpp"

namespace syncbn {

namespace {

std::string to_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// As a checkpoint keeps it, to the bit.
std::string write_result(const EvalResult& r) {
  return fmt::format("{} {} {} {}", write_exact(r.accuracy), write_exact(r.loss), r.correct, r.samples);
}

EvalResult parse_result(const std::string& statistics, const std::string& text) {
  std::istringstream in(text);
  std::string accuracy, loss;
  EvalResult r;
  in >> accuracy >> loss >> r.correct >> r.samples;
  r.statistics = statistics;
  r.accuracy = read_exact(accuracy);
  r.loss = read_exact(loss);
  return r;
}

std::int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace

TrainingRun::TrainingRun(World& world, const TrainRequest& request, const ops::Backend& backend, MachineMemory& memory)
    : world_(world),
      backend_(backend),
      memory_(memory),
      request_(request),
      experiment_(make_experiment(world, request.config, backend)),
      state_(experiment_.model, experiment_.norm, backend),
      slots_(parameter_slots(state_)),
      optimizer_(make_optimizer(experiment_.optimizer, slots_, state_.flat_size(), backend)),
      buckets_(plan_buckets(state_, bucket_bytes(request.config))),
      for_gradients_(backend.device() ? std::make_shared<RankDevice>(backend, world.local_workers()) : nullptr),
      updated_(backend.device() ? backend.device()->make_mark() : nullptr),
      // Batch renormalization has its sums on the processor.
      messenger_(backend.device() && norm_group_size(world, request.config.norm) != 1 && !experiment_.norm.renorm
                     ? backend.for_worker(/*urgent=*/true)
                     : nullptr),
      for_statistics_(messenger_ ? std::make_shared<RankDevice>(*messenger_, world.local_workers()) : nullptr),
      sums_(messenger_ ? DeviceSums::make(world, norm_group_size(world, request.config.norm), for_statistics_,
                                          longest_message(experiment_.model))
                       : nullptr),
      exchange_(world, buckets_.buckets, state_.flat_size(),
                request.config.overlap && !(sums_ && sums_->between_ranks()), for_gradients_),
      total_gradient_(backend.allocate(static_cast<std::size_t>(state_.flat_size()) * sizeof(float))),
      squares_(reinterpret_cast<double*>(memory.take(slots_.size() * sizeof(double))), slots_.size()),
      loss_scale_(precision_of(request.config).type == DataType::f16),
      loader_(experiment_.train_set, loader_options(world, experiment_)),
      evaluator_(world, experiment_) {
  memory_.commit();
  require_variance(world, experiment_);
  // Of ranks that have the weights in common, the others come to a broadcast before they need them.
  if (memory_.first_worker() == world.first_worker()) state_.initialize(experiment_.config.seed);
  if (!request.resume) start_from_weights();  // a file that cannot be read leaves no directory behind
  open_directory(request);
  restore();
  state_.send();
  const std::int64_t position = first_step_ * experiment_.config.train.accumulate;
  loader_.seek(position / experiment_.batches_per_epoch, position % experiment_.batches_per_epoch);
  steps_done_ = first_step_;
}

/// Does what only one rank may do; the others learn whether that went well, so that nobody waits in vain.
void TrainingRun::on_rank_zero(const std::function<void()>& work) {
  std::string failure;
  ExitCode code = ExitCode::ok;
  if (world_.rank() == 0) {
    try {
      work();
    } catch (const Error& e) {
      failure = e.what();
      code = e.code();
    } catch (const std::exception& e) {
      failure = e.what();
      code = ExitCode::failure;
    }
  }
  failure = world_.broadcast(failure);
  if (!failure.empty())
    throw Error(failure, static_cast<ExitCode>(std::stoi(world_.broadcast(std::to_string(static_cast<int>(code))))));
}

void TrainingRun::open_directory(const TrainRequest& request) {
  on_rank_zero([&] {
    const std::string yaml = to_yaml(request.config);
    directory_ = request.resume ? RunDirectory::resume(request.run_dir, yaml, experiment_yaml(request.config),
                                                       request.overrides, request.command)
                                : RunDirectory::create(request.run_dir, yaml, request.overrides, request.command);
    checkpoints_.emplace(directory_->path(), request.config.checkpoint.keep, request.config.checkpoint.keep_best);
  });
}

void TrainingRun::start_from_weights() {
  const Config::Model& model = experiment_.config.model;
  if (model.weights.empty()) return;
  std::string weights;
  on_rank_zero([&] { weights = to_string(CheckpointStore::load(model.weights).model.serialize()); });
  weights = world_.broadcast(weights);
  load_model(state_, SafetensorsFile::parse(as_bytes(weights), model.weights), model.weights_except);
}

void TrainingRun::restore() {
  // All ranks go on from what one of them has read, so that they can never disagree.
  std::string model, optimizer, scalars;
  on_rank_zero([&] {
    if (!request_.resume) return;
    std::vector<std::string> refused;
    const std::optional<TrainingState> saved = checkpoints_->load_newest(&refused);
    if (!saved && !refused.empty())  // starting anew would remove what may only need another disk or program
      throw Error(
          fmt::format("no checkpoint in {} can be read, the newest because: {}; repair it, remove {}/checkpoints, "
                      "or start afresh with another output.dir",
                      request_.run_dir, refused.front(), request_.run_dir),
          ExitCode::bad_data);
    for (const std::string& reason : refused) {
      write_stderr(fmt::format("syncbn: {}; going back to the one before\n", reason));
      if (const auto log = spdlog::get("run")) log->warn("{}; going back to the one before", reason);
    }
    if (saved) {
      model = to_string(saved->model.serialize());
      optimizer = to_string(saved->optimizer.serialize());
      nlohmann::json json = saved->scalars;
      json["step"] = std::to_string(saved->step);
      scalars = json.dump();
    }
  });
  scalars = world_.broadcast(scalars);
  std::map<std::string, std::string> values;
  if (!scalars.empty()) {
    values = nlohmann::json::parse(scalars).get<std::map<std::string, std::string>>();
    if (values.at("data") != experiment_.data_fingerprint) {
      throw Error(fmt::format("the checkpoint in {} was made with other data ({}; now {}); point data.path at the same "
                              "files, or start afresh with another output.dir",
                              request_.run_dir, values.at("data"), experiment_.data_fingerprint),
                  ExitCode::bad_data);
    }
    const std::string machines = fmt::format("{}", fmt::join(norm_groups(world_, experiment_.config.norm), "+"));
    const auto before = values.find("machines");
    if (before != values.end() && before->second != machines) {
      throw Error(
          fmt::format("the run in {} has shared statistics by machine (norm.group: node) among {} workers, which "
                      "would now be {}: start it on as many ranks of as many machines",
                      request_.run_dir, before->second, machines),
          ExitCode::usage);
    }
    model = world_.broadcast(model);
    optimizer = world_.broadcast(optimizer);
    load_model(state_, SafetensorsFile::parse(as_bytes(model), "checkpoint"));
    load_optimizer(state_, *optimizer_, SafetensorsFile::parse(as_bytes(optimizer), "checkpoint"));
    first_step_ = std::stoll(values.at("step"));
    optimizer_->set_updates(std::stoll(values.at("updates")));
    loss_scale_.restore(values);
    best_accuracy_ = read_exact(values.at("best_accuracy"));
    last_evaluation_ = std::stoll(values.at("last_evaluation"));
    for (const std::string& name : experiment_.eval_statistics()) {
      const auto stored = values.find("evaluation." + name);
      if (stored != values.end()) evaluations_.push_back(parse_result(name, stored->second));
    }
    for (const auto& [key, value] : values) {
      if (key.starts_with("probe.")) probe_state_[key] = value;
    }
  } else if (request_.resume) {
    start_from_weights();
  }
  if (directory_) {
    if (request_.resume) directory_->truncate_metrics(first_step_);
    reporter_ = std::make_unique<Reporter>(experiment_, *directory_, first_step_, request_);
    if (memory_.lacks_room() || exchange_.lacks_room())
      reporter_->message(
          "the ranks of a machine could not share their memory (too little room in /dev/shm?): slower, with the same "
          "result");
    if (!values.empty()) {
      reporter_->restore(values);
      reporter_->message(fmt::format("resumed at step {} of {}", first_step_, experiment_.total_steps));
    } else if (request_.resume) {
      reporter_->message(fmt::format("nothing to resume in {}: starting at step 0", directory_->path()));
    }
  }
}

void TrainingRun::save(std::int64_t steps_done, bool is_best, bool last) {
  using namespace std::chrono_literals;
  // The disk works while training goes on. Waiting for it would let the others run into their time limits.
  bool busy = saving_.valid() && saving_.wait_for(0s) != std::future_status::ready;
  if (busy && !last && !is_best)
    return reporter_->message(
        fmt::format("no checkpoint of step {}: the one before is still being written", steps_done));
  if (busy && !last && one_waits_) busy = false;  // or memory would fill with them
  if (saving_.valid() && !busy) saving_.get();    // rethrows what went wrong
  one_waits_ = busy;
  TrainingState snapshot;
  snapshot.step = steps_done;
  snapshot.model = store_model(state_);
  snapshot.optimizer = store_optimizer(state_, *optimizer_);
  snapshot.scalars = reporter_->scalars();
  snapshot.scalars.insert(probe_state_.begin(), probe_state_.end());
  snapshot.scalars.merge(loss_scale_.scalars());
  snapshot.scalars["seed"] = std::to_string(experiment_.config.seed);
  snapshot.scalars["data"] = experiment_.data_fingerprint;
  if (const Config::Norm& norm = experiment_.config.norm; norm.group == "node")
    snapshot.scalars["machines"] = fmt::format("{}", fmt::join(norm_groups(world_, norm), "+"));
  snapshot.scalars["updates"] = std::to_string(optimizer_->updates());
  snapshot.scalars["best_accuracy"] = write_exact(best_accuracy_);
  for (const EvalResult& r : evaluations_) snapshot.scalars["evaluation." + r.statistics] = write_result(r);
  snapshot.scalars["last_evaluation"] = std::to_string(last_evaluation_);
  const auto write = [this, before = busy ? saving_ : std::shared_future<void>(),
                      snapshot = std::make_shared<const TrainingState>(std::move(snapshot)), is_best]() mutable {
    if (before.valid()) before.get();
    before = {};
    checkpoints_->save(*std::exchange(snapshot, nullptr), is_best, directory_->logs());
  };
  saving_ = std::async(std::launch::async | std::launch::deferred, write);
  if (saving_.wait_for(0s) == std::future_status::deferred) saving_.get();  // no thread is to be had
}

TrainResult TrainingRun::finish() {
  TrainResult result;
  result.stopped = stopping_;
  result.evaluations = evaluations_;
  result.best_accuracy = best_accuracy_;
  if (!evaluations_.empty()) {
    result.accuracy = evaluations_.front().accuracy;
    result.loss = evaluations_.front().loss;
  }
  result.steps = steps_done_;
  result.peak_rss_bytes = static_cast<std::int64_t>(world_.max_over_ranks(static_cast<double>(peak_rss_bytes())));
  if (!directory_) return result;
  if (saving_.valid()) saving_.get();
  result.seconds = reporter_->seconds();
  result.images_per_second = reporter_->images_per_second();
  reporter_->finish();
  if (result.stopped) return result;
  write_file_durably(directory_->file("final.safetensors"), store_model(state_).serialize());
  // Of a run that had ended before, the summary tells more than what this start has seen.
  if (first_step_ == experiment_.total_steps && path_exists(directory_->file("summary.json"))) return result;
  const Config& c = experiment_.config;
  const std::string accuracy = c.train.eval_split + "_accuracy", loss = c.train.eval_split + "_loss";
  nlohmann::ordered_json summary{{"schema", 1},
                                 {accuracy, result.accuracy},
                                 {"best_" + accuracy, result.best_accuracy},
                                 {loss, result.loss},
                                 {"images_per_second", result.images_per_second},
                                 {"steps", result.steps},
                                 {"seconds", result.seconds},
                                 {"peak_rss_bytes", result.peak_rss_bytes},
                                 {"workers", c.workers},
                                 {"ranks", world_.ranks()},
                                 {"threads", world_.threads()},
                                 {"samples_per_worker", c.batch_per_worker},
                                 {"global_batch", c.workers * c.batch_per_worker * c.train.accumulate},
                                 {"norm_group", c.norm.group},
                                 {"parameters", experiment_.model.parameter_count()},
                                 {"versions", {{"syncbn", SYNCBN_VERSION}, {"backend", backend_.description()}}},
                                 {"hosts", world_.hosts()},
                                 {"command", request_.command}};
  for (std::size_t i = 1; i < result.evaluations.size(); ++i) {
    const EvalResult& further = result.evaluations[i];
    summary[accuracy + "_" + further.statistics] = further.accuracy;
    summary[loss + "_" + further.statistics] = further.loss;
  }
  directory_->write_summary(summary.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return result;
}

}  // namespace syncbn
