#include "train/training_run.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "comm/rank_context.hpp"
#include "core/console.hpp"
#include "train/reporting/summary.hpp"
#include "train/storage/class_names.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/manifest.hpp"
#include "train/storage/rank_zero.hpp"
#include "train/storage/state_io.hpp"
#include "train/worker_loop.hpp"

namespace syncbn {

namespace {

std::int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace

TrainingRun::TrainingRun(World& world, const TrainRequest& request, const ops::Backend& backend, MachineMemory& memory)
    : request_(request),
      shared_(world, request.config, backend, memory),
      world_(world),
      experiment_(shared_.experiment),
      state_(shared_.state),
      progress_(shared_.progress) {
  memory.commit();
  require_variance(world, experiment_);
  // One rank per machine initializes shared weights. The others see them after the next broadcast.
  if (memory.first_worker() == world.first_worker()) state_.initialize(experiment_.config.seed);
  if (!request.resume) start_from_weights();  // a file that cannot be read leaves no directory behind
  open_directory(request);
  begin();
  state_.send();
  const std::int64_t position = shared_.first_step * experiment_.config.train.accumulate;
  shared_.loader.seek(position / experiment_.batches_per_epoch, position % experiment_.batches_per_epoch);
}

void TrainingRun::open_directory(const TrainRequest& request) {
  on_rank_zero(world_, [&] {
    if (request.run_dir.empty())
      throw Error("TrainRequest::run_dir is empty: name the folder of the run", ExitCode::usage);
    Config config = request.config;
    std::string& data = config.data.path;  // absolute, so that a start from another folder finds it
    if (!data.empty()) data = std::filesystem::absolute(data).string();
    directory_ = request.resume
                     ? RunDirectory::resume(request.run_dir, config, request.overrides, request.command)
                     : RunDirectory::create(request.run_dir, to_yaml(config), request.overrides, request.command);
    const Config::Checkpoint& keep = request.config.checkpoint;
    checkpoints_.emplace(CheckpointStore(directory_->path(), keep.keep, keep.keep_best, nullptr, directory_->lock()),
                         directory_->logs());
  });
}

void TrainingRun::start_from_weights() {
  const Config::Model& model = experiment_.config.model;
  if (model.weights.empty()) return;
  SafetensorsFile weights;
  try {
    weights = read_weights(world_, model.weights);
  } catch (const Error& e) {
    throw Error(fmt::format("model.weights: {}", e.what()), e.code());
  }
  require_same_classes(weights, experiment_.train_set->class_names(), experiment_.model, model.weights_except);
  const std::string left_off = load_model(state_, weights, model.weights_except);
  require_finite(state_, model.weights);
  if (!left_off.empty()) about_weights_ = left_off_text(left_off, model.weights);
}

/// The newest checkpoint, if there is one. All ranks go on from what one of them has read, so that they can never
/// disagree.
std::optional<TrainingState> TrainingRun::newest_checkpoint() {
  std::optional<TrainingState> saved;
  std::string rest;
  on_rank_zero(world_, [&] {
    std::vector<std::string> refused;
    saved = checkpoints_->store().load_newest(&refused, [this](const TrainingState& state) {
      RunProgress::of(state, experiment_.eval_statistics());
      LossScale(shared_.loss_scale).restore(state.scalars);
      Reporter::saved(state.scalars);
    });
    // Starting anew would remove checkpoints that another disk or program may still read.
    if (!saved && !refused.empty())
      throw Error(
          fmt::format("no checkpoint in {} can be read, the newest because: {}; repair it, remove {}/checkpoints, "
                      "or start afresh with another output.dir",
                      request_.run_dir, refused.front(), request_.run_dir),
          ExitCode::bad_data);
    for (const std::string& reason : refused) {
      write_stderr(fmt::format("syncbn: {}; going back to the one before\n", reason));
      if (const auto log = spdlog::get("run")) log->warn("{}; going back to the one before", reason);
    }
    if (saved) rest = nlohmann::json{{"step", saved->step}, {"scalars", saved->scalars}}.dump();
  });
  rest = world_.broadcast(rest);
  if (rest.empty()) return std::nullopt;
  const nlohmann::json json = nlohmann::json::parse(rest);
  TrainingState state;
  json.at("step").get_to(state.step);
  json.at("scalars").get_to(state.scalars);
  state.model = broadcast(world_, saved ? saved->model : SafetensorsFile(), "checkpoint");
  state.optimizer = broadcast(world_, saved ? saved->optimizer : SafetensorsFile(), "checkpoint");
  return state;
}

/// Throws Error if going on from `saved` here would give other results than where it was saved.
void TrainingRun::require_same_surroundings(const RunProgress& saved) const {
  if (saved.experiment != progress_.experiment && !saved.experiment.empty())  // earlier versions did not write it
    throw Error(fmt::format("{} was made by another experiment than {}: its configuration differs in more than where "
                            "and how it runs; remove it, or start afresh with another output.dir",
                            CheckpointStore(request_.run_dir, 1, false).folder_of(saved.steps_done), request_.run_dir),
                ExitCode::bad_data);
  if (saved.data != progress_.data)
    throw Error(fmt::format("the checkpoint in {} was made with other data ({}; now {}); point data.path at the same "
                            "files, or start afresh with another output.dir",
                            request_.run_dir, saved.data, progress_.data),
                ExitCode::bad_data);
  if (saved.machines != progress_.machines && !saved.machines.empty())
    throw Error(fmt::format("the run in {} has shared statistics by machine (norm.group: node) among {} workers, which "
                            "would now be {}: start it on as many ranks of as many machines",
                            request_.run_dir, saved.machines, progress_.machines),
                ExitCode::usage);
}

void TrainingRun::go_on_from(const TrainingState& saved) {
  RunProgress progress = RunProgress::of(saved, experiment_.eval_statistics());
  require_same_surroundings(progress);
  load_model(state_, saved.model);
  load_optimizer(state_, *shared_.optimizer, saved.optimizer);
  shared_.optimizer->set_updates(progress.updates);
  shared_.loss_scale.restore(saved.scalars);
  if (progress.kernels != progress_.kernels && !progress.kernels.empty())
    other_kernels_ = fmt::format(
        "warning: the checkpoint was made with {}; here it is {}: from here on, results may differ in their last bits "
        "from those of an undisturbed run",
        progress.kernels, progress_.kernels);
  progress.kernels = progress_.kernels;
  progress.seed = progress_.seed;
  progress_ = std::move(progress);
}

/// On the rank of worker 0: makes the reporter, and says where the training begins. `saved`: null at a start from the
/// beginning.
void TrainingRun::start_reporting(const TrainingState* saved) {
  const std::int64_t recorded = request_.resume ? directory_->truncate_metrics(shared_.first_step) : 0;
  reporter_ = std::make_unique<Reporter>(experiment_, *directory_, shared_.first_step, request_);
  shared_.reporter = reporter_.get();
  shared_.save = [this](bool is_best, bool last) { save(is_best, last); };
  if (shared_.memory.lacks_room() || shared_.exchange.lacks_room())
    reporter_->message(
        "the ranks of a machine could not share their memory (too little room in /dev/shm?): slower, with the same "
        "result");
  for (const std::string& line :
       unreached_points(experiment_.config, experiment_.batches_per_epoch, experiment_.total_steps))
    reporter_->message("warning: " + line);
  reporter_->message(fmt::format("{} training and {} test images, {} classes", experiment_.train_set->size(),
                                 experiment_.test_set->size(), experiment_.train_set->classes()));
  for (const std::string& note : {experiment_.train_set->note(), experiment_.test_set->note()})
    if (!note.empty()) reporter_->message("warning: " + note);
  if (const auto without = experiment_.test_set->classes_without_images(); !without.empty())
    reporter_->message(fmt::format("warning: {} of the classes without a test image (the first: {})", without.size(),
                                   without.front()));
  if (!about_weights_.empty()) reporter_->message(about_weights_);
  if (saved) {
    reporter_->restore(saved->scalars);
    reporter_->message(fmt::format("resumed at step {} of {}", shared_.first_step, experiment_.total_steps));
    if (!other_kernels_.empty()) reporter_->message(other_kernels_);
    const std::int64_t wanted = std::max(reporter_->recorded_to(), progress_.last_evaluation);
    if (recorded < wanted)
      reporter_->message(fmt::format(
          "{} {}: what it said of steps {} to {} is lost; it goes on from there", directory_->file("metrics.jsonl"),
          recorded == 0 ? "is missing or empty" : fmt::format("ends at step {}", recorded), recorded + 1, wanted));
  } else if (request_.resume) {
    reporter_->message(fmt::format("nothing to resume in {}: starting at step 0", directory_->path()));
  }
}

void TrainingRun::begin() {
  progress_.seed = experiment_.config.seed;
  progress_.data = experiment_.data_fingerprint;
  progress_.kernels = shared_.backend.description();
  Config config = experiment_.config;
  config.data.path.clear();  // the data are known by their fingerprint
  const std::string changes = changes_yaml(config);
  progress_.experiment = sha256(std::as_bytes(std::span(changes)));
  if (const Config::Norm& norm = experiment_.config.norm; norm.group == "node")
    progress_.machines = fmt::format("{}", fmt::join(norm_groups(world_, norm), "+"));
  const std::optional<TrainingState> saved = request_.resume ? newest_checkpoint() : std::nullopt;
  if (saved) {
    go_on_from(*saved);
  } else if (request_.resume) {
    start_from_weights();
  }
  shared_.first_step = progress_.steps_done;
  if (directory_) start_reporting(saved ? &*saved : nullptr);
}

SafetensorsFile TrainingRun::weights() {
  SafetensorsFile file = store_model(state_);
  put_class_names(file, experiment_.train_set->class_names());
  return file;
}

TrainingState TrainingRun::snapshot() {
  progress_.updates = shared_.optimizer->updates();
  TrainingState state;
  state.step = progress_.steps_done;
  state.model = weights();
  state.optimizer = store_optimizer(state_, *shared_.optimizer);
  state.scalars = progress_.scalars();
  state.scalars.merge(shared_.loss_scale.scalars());
  state.scalars.merge(reporter_->scalars());
  return state;
}

void TrainingRun::save(bool is_best, bool last) {
  if (checkpoints_->save([this] { return snapshot(); }, is_best, last) || std::exchange(passed_over_, true)) return;
  reporter_->message(
      fmt::format("no checkpoint of step {}: the one before is still being written (only the first time "
                  "is mentioned)",
                  progress_.steps_done));
}

void TrainingRun::work(Worker& worker) {
  std::optional<WorkerLoop> loop;
  const auto here = [&] {
    return fmt::format("rank {}, worker {}, step {}", world_.rank(), worker.index(),
                       loop ? loop->step() : shared_.first_step);
  };
  std::exception_ptr failure;
  try {
    shared_.backend.prepare_thread();
    loop.emplace(shared_, worker).run();
    return;
  } catch (const DeviceError& e) {
    failure = std::make_exception_ptr(e.at(here()));
  } catch (const Error&) {
    failure = std::current_exception();  // its message says where already
  } catch (const std::bad_alloc&) {
    failure = std::make_exception_ptr(
        Error(fmt::format("out of memory ({}); use a smaller batch_per_worker, fewer workers, more hosts, or fewer "
                          "trials at once",
                          here())));
  } catch (const std::exception& e) {
    failure = std::make_exception_ptr(Error(fmt::format("{} ({})", e.what(), here())));
  }
  // Record the failure before destroying this worker's parts: that may wait for the device, and spoil what others have
  // under way on it.
  if (shared_.device.sums)
    shared_.device.sums->give_up(failure);
  else
    world_.context()->fail(failure);
  std::rethrow_exception(failure);
}

TrainResult TrainingRun::finish() {
  TrainResult result;
  result.stopped = shared_.stopping;
  result.evaluations = progress_.evaluations;
  result.best_accuracy = std::max(0.0, progress_.best_accuracy);
  if (!result.evaluations.empty()) {
    result.accuracy = result.evaluations.front().accuracy;
    result.loss = result.evaluations.front().loss;
  }
  result.steps = progress_.steps_done;
  result.peak_rss_bytes = static_cast<std::int64_t>(world_.max_over_ranks(static_cast<double>(peak_rss_bytes())));
  if (!directory_) return result;
  checkpoints_->finish();
  result.seconds = reporter_->seconds();
  result.images_per_second = reporter_->images_per_second();
  reporter_->finish();
  if (result.stopped) return result;
  directory_->write_weights(weights().serialize());
  // If the run had already ended before this start, its existing summary tells more.
  if (shared_.first_step == experiment_.total_steps && path_exists(directory_->file("summary.json"))) return result;
  directory_->write_summary(summary_json(result, experiment_, world_, shared_.backend, request_.command));
  return result;
}

}  // namespace syncbn
