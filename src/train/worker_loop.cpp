// What one worker does in a training: the loop over updates, from batch to new weights.

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>
#include <optional>

#include "comm/rank_context.hpp"
#include "train/stragglers.hpp"
#include "train/training_run.hpp"

namespace syncbn {

namespace {

/// By a power of two.
void divide(std::span<float> values, double scale) {
  if (scale == 1) return;
  for (float& v : values) v = static_cast<float>(v / scale);
}

}  // namespace

/// What belongs to one worker.
struct TrainingRun::WorkerState {
  WorkerState(TrainingRun& run, Worker& w)
      : worker(w),
        all_done(run.memory_, w),
        group(make_norm_group(w, run.experiment_.config.norm)),
        metrics(w.duplicate()),
        gradient(run.exchange_.gradient(w)),
        groups(static_cast<int>(norm_groups(w.world(), run.experiment_.config.norm).size())),
        network(run.state_, run.backend_, group, groups, run.experiment_.config.batch_per_worker, gradient,
                run.sums_ ? run.sums_->join(w, group) : nullptr),
        stragglers(w, metrics, run.first_step_) {
    network.set_pixel_values(run.experiment_.pixel_values);
    if (const ops::Device* device = network.backend().device()) {
      for (const auto& exchange : {run.for_gradients_, run.for_statistics_})
        if (exchange) exchange->attach(w.local_index(), *device);
      computed = device->make_mark();
      if (!run.experiment_.config.probes.names.empty()) gradient_here.resize(gradient.size());
    }
    probes = make_probes(run);
    // Messages of other ranks are no part of a graph, nor is what differs from one micro-batch to the next. Several
    // groups share a queue for their sums, in which a graph would keep them waiting for each other.
    const Config& config = run.experiment_.config;
    repeats_ = config.cuda_graphs && run.world_.ranks() == 1 && (!run.sums_ || groups == 1) &&
               config.train.accumulate == 1 && network.repeats();
  }

  /// Whether this update's passes queue the same as those of others. Probes want to see theirs layer by layer.
  bool repeats() const { return repeats_ && !probing; }

  bool is_first() const { return worker.index() == 0; }
  bool is_first_here() const { return worker.local_index() == 0; }

  std::unique_ptr<Probes> make_probes(TrainingRun& run) {
    const Config::Probes& options = run.experiment_.config.probes;
    for (const std::string& name : is_first() ? probe_names() : std::vector<std::string>{}) {
      if (!wants_probe(options, name)) continue;
      const std::string obstacle = probe_obstacle(name, run.experiment_.model, worker.world().workers(), groups);
      if (!obstacle.empty()) run.reporter_->message(fmt::format("probe {} has nothing to measure: {}", name, obstacle));
    }
    const std::span<const float> shown = gradient_here.empty() ? gradient : std::span<const float>(gradient_here);
    return Probes::make({run.state_, network, shown, metrics, group, groups, options}, run.progress_.of_probes);
  }

  /// Copies a part of a gradient on a device for the probes, without the loss's scale.
  void fetch_gradient(FlatRange r, double loss_scale) {
    if (gradient_here.empty() || r.count == 0) return;
    const auto part =
        std::span(gradient_here).subspan(static_cast<std::size_t>(r.offset), static_cast<std::size_t>(r.count));
    network.settle();
    network.backend().download(gradient.data() + r.offset, part.data(), part.size_bytes());
    divide(part, loss_scale);
  }

  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();  ///< before anything can wait
  Worker& worker;
  MachineMemory::Barrier all_done;  ///< of those who share the weights
  Communicator group;               ///< shares batch statistics
  Communicator metrics;             ///< all workers
  std::span<float> gradient;
  int groups;
  Network network;
  std::unique_ptr<ops::Mark> computed;  ///< on a device: this worker's gradient of the step
  std::vector<float> gradient_here;     ///< of a gradient on a device, what probes want to see
  std::unique_ptr<Probes> probes;       ///< nullptr: none
  bool probing = false;                 ///< in this update
  bool repeats_ = false;
  WorkerTimes times;
  Stragglers stragglers;
};

void TrainingRun::work(Worker& worker) {
  std::int64_t step = first_step_;
  const auto here = [&] { return fmt::format("rank {}, worker {}, step {}", world_.rank(), worker.index(), step); };
  std::optional<WorkerState> state;
  std::exception_ptr failure;
  try {
    backend_.prepare_thread();
    WorkerState& w = state.emplace(*this, worker);
    for (; step < experiment_.total_steps && !stopping_; ++step) {
      train_step(w, step);
      const bool improved = evaluate_if_due(w, step + 1);
      save_if_due(w, step + 1, improved);
    }
    // An older version may have meant to go on from the last checkpoint.
    if (!stopping_ && progress_.last_evaluation != experiment_.total_steps) {
      worker.local_barrier({"evaluation", step});  // progress_.last_evaluation has been read by all
      evaluate_if_due(w, experiment_.total_steps);
    }
    return;
  } catch (const DeviceError& e) {
    failure = std::make_exception_ptr(e.at(here()));
  } catch (const Error&) {
    failure = std::current_exception();  // says where by itself
  } catch (const std::bad_alloc&) {
    failure = std::make_exception_ptr(
        Error(fmt::format("out of memory ({}); use a smaller batch_per_worker, fewer workers, more hosts, or fewer "
                          "trials at once",
                          here())));
  } catch (const std::exception& e) {
    failure = std::make_exception_ptr(Error(fmt::format("{} ({})", e.what(), here())));
  }
  // Recorded before this worker's parts go, which may wait for the device, and spoil what others have under way on it.
  if (sums_)
    sums_->give_up(failure);
  else
    world_.context()->fail(failure);
  std::rethrow_exception(failure);
}

void TrainingRun::train_step(WorkerState& w, std::int64_t step) {
  const std::int64_t every = experiment_.config.probes.every;
  w.probing = w.probes && ((step + 1) % every == 0 || step + 1 == experiment_.total_steps);
  w.network.begin_update();
  exchange_.begin(w.worker, step);
  TrainStatistics own;
  forward_backward(w, step, own);
  const TrainStatistics all = finish_exchange(w, step, own);
  const double waited_s = w.group.waited_seconds() + exchange_.waited_seconds(w.worker);
  const std::string straggler = w.stragglers.look(w.times.now_s, waited_s, step + 1);
  if (w.is_first() && !straggler.empty()) reporter_->message(straggler);
  update_weights(w, step);
  if (w.probing) {
    if (w.is_first_here()) state_.fetch();
    w.worker.local_barrier({"probes", step});
    const std::vector<Measurement> rows = w.probes->measure();
    if (w.is_first()) {
      reporter_->probes(step + 1, rows);
      progress_.of_probes = w.probes->state();
    }
  }
  if (w.is_first()) {
    progress_.steps_done = step + 1;
    reporter_->step(step + 1, learning_rate(experiment_.schedule, step, experiment_.total_steps), all, w.times);
  }
}

void TrainingRun::forward_backward(WorkerState& w, std::int64_t step, TrainStatistics& own) {
  const std::int64_t accumulate = experiment_.config.train.accumulate;
  // Gradients are summed over workers and micro-batches, so each sample weighs the same however they are spread.
  const double scale = 1.0 / static_cast<double>(experiment_.samples_in_step(step));
  for (std::int64_t m = 0; m < accumulate; ++m) {
    const Batch& batch = loader_.next(w.worker.local_index());
    w.network.set_images(batch.images.data(), batch.n);
    Pass pass;
    pass.n = batch.n;
    pass.step = step * accumulate + m;
    pass.batch_samples = experiment_.samples_in_batch(pass.step % experiment_.batches_per_epoch);
    pass.progress = static_cast<double>(step) / static_cast<double>(experiment_.total_steps);
    pass.seed = experiment_.config.seed;
    pass.sample_ids = std::span(batch.ids).first(static_cast<std::size_t>(batch.n));
    const bool last = m + 1 == accumulate;
    if (w.repeats())
      forward_.run(w.worker, *w.network.backend().device(), pass.batch_samples, {"forward", step},
                   [&] { w.network.forward(pass); });
    else
      w.network.forward(pass);
    w.network.start_loss(std::span(batch.labels).first(static_cast<std::size_t>(batch.n)),
                         experiment_.config.label_smoothing, scale * loss_scale_.value());
    const auto finished = [&](int layer) {
      if (!last) return;
      if (w.probing) {
        w.fetch_gradient(state_.exchanged(layer), loss_scale_.value());
        w.probes->gradient_ready(layer);
      }
      const int bucket = buckets_.completed_by[layer];
      if (bucket >= 0) exchange_.ready(w.worker, bucket);
    };
    if (w.repeats()) {
      const ops::Device* device = w.network.backend().device();
      backward_.run(w.worker, *device, pass.batch_samples, {"backward", step},
                    [&] { w.network.backward(pass, [](int) {}); });
      ops::within(device, "gradients", [&] {
        for (auto layer = static_cast<int>(experiment_.model.layers.size()) - 1; layer > 0; --layer) finished(layer);
      });
    } else {
      w.network.backward(pass, finished);
    }
    const LossResult loss = w.network.finish_loss();
    own.add(loss.loss_sum, loss.correct, batch.n);
    if (last && w.probing) {
      const Slice slice = slice_of(pass.batch_samples, world_.workers(), w.worker.index());
      w.probes->batch_done({step + 1, own.samples, experiment_.samples_in_step(step), pass, slice.begin});
    }
  }
}

TrainStatistics TrainingRun::finish_exchange(WorkerState& w, std::int64_t step, const TrainStatistics& own) {
  enum {
    kLoss,
    kCorrect,
    kSamples,
    kStops,
    kBadLosses,
    kElapsed,
    kWaitedStatistics,
    kWaitedGradients,
    kThreads,
    kCount
  };
  std::array<double, kCount> sum{};
  sum[kLoss] = own.loss_sum;
  sum[kCorrect] = static_cast<double>(own.correct);
  sum[kSamples] = static_cast<double>(own.samples);
  sum[kBadLosses] = std::isfinite(own.loss_sum) ? 0 : 1;
  sum[kElapsed] = std::chrono::duration<double>(std::chrono::steady_clock::now() - w.start).count();
  sum[kWaitedStatistics] = w.group.waited_seconds();
  sum[kWaitedGradients] = exchange_.waited_seconds(w.worker);
  if (w.is_first_here()) {  // once per rank
    sum[kStops] = stop_requested() ? 1 : 0;
    sum[kThreads] = std::min(world_.threads(), world_.local_workers());
  }
  // The gradients first: who waits for them helps to sum them.
  w.metrics.start_all_reduce(sum, Reduce::sum, {"metrics", step});
  exchange_.wait(w.worker);
  w.metrics.finish_all_reduce();
  if (sum[kBadLosses] > 0) report_nonfinite(w, step);
  if (sum[kStops] > 0) stopping_ = true;

  // Of the time of the compute threads. Workers beyond their number always wait while others compute; that is no loss.
  const double waited = sum[kWaitedStatistics] + sum[kWaitedGradients];
  const double computing = sum[kThreads] / world_.workers() * sum[kElapsed];
  const double lost = std::max(0.0, waited - (sum[kElapsed] - computing));
  const double share = waited > 0 ? lost / computing / waited : 0;
  w.times = {sum[kElapsed] / world_.workers(), share * sum[kWaitedStatistics], share * sum[kWaitedGradients]};
  TrainStatistics all;
  all.add(sum[kLoss], static_cast<std::int64_t>(sum[kCorrect]), static_cast<std::int64_t>(sum[kSamples]));
  return all;
}

void TrainingRun::report_nonfinite(WorkerState& w, std::int64_t step) {
  // Which worker and layer met it first: the lowest layer, then the lowest worker.
  const int layers = static_cast<int>(experiment_.model.layers.size());
  const int layer = w.network.first_nonfinite_layer();
  double first = static_cast<double>(layer < 0 ? layers : layer) * world_.workers() + w.worker.index();
  w.metrics.all_reduce(std::span<double>(&first, 1), Reduce::min, {"first non-finite value", step});
  const auto found = static_cast<std::int64_t>(first);
  const std::int64_t found_layer = found / world_.workers();
  const std::string where =
      found_layer < layers
          ? fmt::format("first seen at the input of '{}' on {}", experiment_.model.layers[found_layer].name,
                        world_.context()->topology().describe_worker(static_cast<int>(found % world_.workers())))
          : std::string("first seen in the loss itself");
  throw Diverged(fmt::format(
      "the loss of step {} is not a finite number ({}); it has changed no weight: lower optimizer.lr, add "
      "warm-up or optimizer.clip_norm, and start anew, from an earlier checkpoint if you like (model.weights)",
      step + 1, where));
}

template <class Work>
void TrainingRun::together(WorkerState& w, std::int64_t step, Work work) {
  if (!backend_.device()) {
    work(w.worker.index() - memory_.first_worker(), memory_.workers());
  } else if (w.is_first_here()) {
    ops::within(backend_.device(), "update", [&] { work(0, 1); });
  }
  w.all_done.wait({"update", step});
}

std::optional<double> TrainingRun::gradient_scale(WorkerState& w, std::int64_t step, std::span<const float> gradient) {
  const double limit = experiment_.config.clip_norm, unscale = 1 / loss_scale_.value();
  if (limit <= 0 && !loss_scale_.active()) return 1;
  together(w, step, [&](int part, int parts) { optimizer_->squares(gradient, squares_, part, parts); });
  double sum = 0;
  for (const double s : squares_) sum += s;
  if (loss_scale_.active() && !std::isfinite(sum)) return std::nullopt;
  if (limit <= 0) return unscale;
  if (!std::isfinite(sum))
    throw Diverged(
        fmt::format("the gradient of step {} is not finite; it has changed no weight: lower optimizer.lr or add "
                    "warm-up, and start anew, from an earlier checkpoint if you like (model.weights)",
                    step + 1));
  return unscale * std::min(1.0, limit / (unscale * std::sqrt(sum) + 1e-6));
}

void TrainingRun::report_loss_scale(WorkerState& w, std::int64_t step, bool updated) {
  if (w.is_first()) reporter_->loss_scale(step + 1, loss_scale_.value(), updated);
  if (!loss_scale_.exhausted()) return;
  throw Diverged(fmt::format(
      "the gradient of step {} is not finite even if the loss is scaled by {}; it has changed no weight: go on with "
      "--resume and precision: bfloat16, or lower optimizer.lr and start anew, from an earlier checkpoint if you like "
      "(model.weights)",
      step + 1, 2 * loss_scale_.value()));
}

/// To the probes, which look at what is in the processor's memory.
void TrainingRun::show_gradient(WorkerState& w, std::int64_t step, std::span<const float> gradient) {
  std::span<const float> exchanged = exchange_.result();
  if (backend_.device()) {
    together(w, step, [&](int, int) {
      state_.fetch();
      exchanged = readable(backend_, exchanged, probed_exchanged_);
      gradient = readable(backend_, gradient, probed_gradient_);
      for (std::vector<float>* copy : {&probed_exchanged_, &probed_gradient_}) divide(*copy, loss_scale_.value());
    });
    exchanged = probed_exchanged_;
    gradient = probed_gradient_;
  }
  w.probes->gradient_summed(exchanged, gradient);
  w.all_done.wait({"probes", step});  // nobody changes the weights while they are looked at
}

void TrainingRun::update_weights(WorkerState& w, std::int64_t step) {
  const std::span<float> gradient(total_gradient_.as<float>(), static_cast<std::size_t>(state_.flat_size()));
  const ops::Device* device = w.network.backend().device();
  if (device) {
    device->set(*w.computed);
    backend_.device()->follow(*w.computed);
    w.worker.local_barrier({"update", step});
  }
  together(w, step,
           [&](int part, int parts) { state_.finish_gradient(exchange_.result(), w.gradient, gradient, part, parts); });
  if (w.probing) show_gradient(w, step, gradient);
  const std::optional<double> scale = gradient_scale(w, step, gradient);
  const double loss_scale = loss_scale_.value();
  const double lr = learning_rate(experiment_.schedule, step, experiment_.total_steps);
  together(w, step, [&](int part, int parts) {
    if (scale) optimizer_->update(state_.kernels(), gradient, lr, *scale, part, parts);
    if (part == 0) state_.update_statistics(gradient);
  });
  if (w.is_first_here()) {
    state_.count_batches(experiment_.config.train.accumulate);
    if (scale) optimizer_->count_update();
    loss_scale_.update(scale.has_value());
  }
  together(w, step, [&](int part, int parts) {
    state_.pack(part, parts);
    if (device) backend_.device()->set(*updated_);
  });
  if (device) device->follow(*updated_);
  if (loss_scale_.value() != loss_scale) report_loss_scale(w, step, scale.has_value());
}

bool TrainingRun::evaluate_if_due(WorkerState& w, std::int64_t steps_done) {
  const bool final = steps_done == experiment_.total_steps;
  if (!final && !experiment_.due(experiment_.config.train.eval_every, steps_done)) return false;
  compare_copies(w.worker, w.metrics, steps_done);
  const std::vector<EvalResult> results = evaluator_.run(
      w.network, experiment_.split(experiment_.config.train.eval_split), w.worker, w.metrics, steps_done);
  if (final && !std::isfinite(results.front().loss))
    throw Diverged(
        "the loss of the final evaluation is not a finite number: lower optimizer.lr, add warm-up or "
        "optimizer.clip_norm, and start anew, from an earlier checkpoint if you like (model.weights)");
  const double accuracy = results.front().accuracy;
  const bool improved = accuracy > progress_.best_accuracy;
  w.worker.local_barrier({"evaluation", steps_done});  // everybody has compared
  if (w.is_first_here()) {
    progress_.evaluations = results;
    progress_.last_evaluation = steps_done;
    if (improved) progress_.best_accuracy = accuracy;
  }
  if (w.is_first()) reporter_->evaluation(steps_done, results, progress_.best_accuracy, final);
  w.worker.local_barrier({"evaluation", steps_done});
  return improved;
}

void TrainingRun::save_if_due(WorkerState& w, std::int64_t steps_done, bool improved) {
  const Config::Checkpoint& when = experiment_.config.checkpoint;
  const bool is_best = improved && when.keep_best;
  const bool final = steps_done == experiment_.total_steps;
  if (!final && !stopping_ && !is_best && !experiment_.due(when.every, steps_done)) return;
  if (progress_.last_evaluation != steps_done) compare_copies(w.worker, w.metrics, steps_done);
  if (w.is_first()) save(is_best, final || stopping_);
  w.worker.local_barrier({"checkpoint", steps_done});  // nobody changes the weights while they are copied
}

}  // namespace syncbn
