#include "train/worker_loop.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>

#include "comm/rank_context.hpp"
#include "train/copies.hpp"

namespace syncbn {

namespace {

/// `scale`: a power of two, so that the division is exact.
void divide(std::span<float> values, double scale) {
  if (scale == 1) return;
  for (float& v : values) v = static_cast<float>(v / scale);
}

}  // namespace

WorkerLoop::WorkerLoop(SharedTraining& shared, Worker& worker)
    : shared_(shared),
      experiment_(shared.experiment),
      worker_(worker),
      world_(worker.world()),
      all_done_(shared.memory, worker),
      group_(make_norm_group(worker, experiment_.config.norm)),
      metrics_(worker.duplicate()),
      gradient_(shared.exchange.gradient(worker)),
      groups_(static_cast<int>(norm_groups(worker.world(), experiment_.config.norm).size())),
      network_(shared.state, shared.backend, group_, groups_, experiment_.config.batch_per_worker, gradient_,
               shared.device.sums ? shared.device.sums->join(worker, group_) : nullptr),
      stragglers_(worker, metrics_, shared.first_step),
      step_(shared.first_step) {
  network_.set_pixel_values(experiment_.pixel_values);
  const Config& config = experiment_.config;
  if (device()) {
    shared_.device.attach(worker.local_index(), *device());
    computed_ = device()->make_mark();
    if (!config.probes.names.empty()) gradient_here_.resize(gradient_.size());
  }
  probes_ = make_probes();
  // A graph cannot contain messages of other ranks, nor what differs from one micro-batch to the next. With several
  // groups, which share a queue for their sums, a graph would keep them waiting for each other.
  repeats_ = config.cuda_graphs && worker.world().ranks() == 1 && (!shared_.device.sums || groups_ == 1) &&
             config.train.accumulate == 1 && network_.repeats();
}

std::unique_ptr<Probes> WorkerLoop::make_probes() {
  const Config::Probes& options = experiment_.config.probes;
  for (const std::string& name : is_first() ? probe_names() : std::vector<std::string>{}) {
    if (!wants_probe(options, name)) continue;
    const std::string obstacle = probe_obstacle(name, experiment_.model, world_.workers(), groups_);
    if (!obstacle.empty())
      shared_.reporter->message(fmt::format("probe {} has nothing to measure: {}", name, obstacle));
  }
  const std::span<const float> shown = gradient_here_.empty() ? gradient_ : std::span<const float>(gradient_here_);
  return Probes::make({shared_.state, network_, shown, metrics_, group_, groups_, options}, shared_.progress.of_probes);
}

void WorkerLoop::run() {
  for (; step_ < experiment_.total_steps && !shared_.stopping; ++step_) {
    train_step();
    const bool improved = evaluate_if_due(step_ + 1);
    save_if_due(step_ + 1, improved);
  }
  // A last checkpoint of an older version may lack the final evaluation.
  if (!shared_.stopping && shared_.progress.last_evaluation != experiment_.total_steps) {
    worker_.local_barrier({"evaluation", step_});  // progress.last_evaluation has been read by all
    evaluate_if_due(experiment_.total_steps);
  }
}

void WorkerLoop::train_step() {
  const std::int64_t every = experiment_.config.probes.every;
  probing_ = probes_ && ((step_ + 1) % every == 0 || step_ + 1 == experiment_.total_steps);
  network_.begin_update();
  shared_.exchange.begin(worker_, step_);
  TrainStatistics own;
  forward_backward(own);
  const TrainStatistics all = finish_exchange(own);
  const double waited_s = group_.waited_seconds() + shared_.exchange.waited_seconds(worker_);
  const std::string straggler = stragglers_.look(times_.now_s, waited_s, step_ + 1);
  if (is_first() && !straggler.empty()) shared_.reporter->message(straggler);
  update_weights();
  if (probing_) {
    if (is_first_here()) shared_.state.fetch();
    worker_.local_barrier({"probes", step_});
    const std::vector<Measurement> rows = probes_->measure();
    if (is_first()) {
      shared_.reporter->probes(step_ + 1, rows);
      shared_.progress.of_probes = probes_->state();
    }
  }
  if (is_first()) {
    shared_.progress.steps_done = step_ + 1;
    shared_.reporter->step(step_ + 1, learning_rate(experiment_.schedule, step_, experiment_.total_steps), all, times_);
  }
}

void WorkerLoop::forward_backward(TrainStatistics& own) {
  const std::int64_t accumulate = experiment_.config.train.accumulate;
  // Gradients are summed over workers and micro-batches, so each sample weighs the same however they are spread.
  const double scale = 1.0 / static_cast<double>(experiment_.samples_in_step(step_));
  for (std::int64_t m = 0; m < accumulate; ++m) {
    const Batch& batch = shared_.loader.next(worker_.local_index());
    network_.set_images(batch.images.data(), batch.n);
    Pass pass;
    pass.n = batch.n;
    pass.step = step_ * accumulate + m;
    pass.batch_samples = experiment_.samples_in_batch(pass.step % experiment_.batches_per_epoch);
    pass.progress = static_cast<double>(step_) / static_cast<double>(experiment_.total_steps);
    pass.seed = experiment_.config.seed;
    pass.sample_ids = std::span(batch.ids).first(static_cast<std::size_t>(batch.n));
    const bool last = m + 1 == accumulate;
    if (repeats())
      shared_.forward.run(worker_, *device(), pass.batch_samples, {"forward", step_}, [&] { network_.forward(pass); });
    else
      network_.forward(pass);
    network_.start_loss(std::span(batch.labels).first(static_cast<std::size_t>(batch.n)),
                        experiment_.config.label_smoothing, scale * shared_.loss_scale.value());
    const auto finished = [&](int layer) {
      if (!last) return;
      if (probing_) {
        fetch_gradient(shared_.state.exchanged(layer));
        probes_->gradient_ready(layer);
      }
      const int bucket = shared_.buckets.completed_by[layer];
      if (bucket >= 0) shared_.exchange.ready(worker_, bucket);
    };
    if (repeats()) {
      shared_.backward.run(worker_, *device(), pass.batch_samples, {"backward", step_},
                           [&] { network_.backward(pass, [](int) {}); });
      ops::within(device(), "gradients", [&] {
        for (auto layer = static_cast<int>(experiment_.model.layers.size()) - 1; layer > 0; --layer) finished(layer);
      });
    } else {
      network_.backward(pass, finished);
    }
    const LossResult loss = network_.finish_loss();
    own.add(loss.loss_sum, loss.correct, batch.n);
    if (last && probing_) {
      const Slice slice = slice_of(pass.batch_samples, world_.workers(), worker_.index());
      probes_->batch_done({step_ + 1, own.samples, experiment_.samples_in_step(step_), pass, slice.begin});
    }
  }
}

TrainStatistics WorkerLoop::finish_exchange(const TrainStatistics& own) {
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
  sum[kElapsed] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  sum[kWaitedStatistics] = group_.waited_seconds();
  sum[kWaitedGradients] = shared_.exchange.waited_seconds(worker_);
  if (is_first_here()) {  // once per rank
    sum[kStops] = stop_requested() ? 1 : 0;
    sum[kThreads] = std::min(world_.threads(), world_.local_workers());
  }
  // Wait for the gradients first: whoever waits for them helps to sum them.
  metrics_.start_all_reduce(sum, Reduce::sum, {"metrics", step_});
  shared_.exchange.wait(worker_);  // EXCHANGED
  metrics_.finish_all_reduce();
  if (sum[kBadLosses] > 0) report_nonfinite();
  if (sum[kStops] > 0) shared_.stopping = true;

  // Shares of the compute threads' time. Workers in excess of the threads always wait while others compute; that is no
  // loss.
  const double waited = sum[kWaitedStatistics] + sum[kWaitedGradients];
  const double computing = sum[kThreads] / world_.workers() * sum[kElapsed];
  const double lost = std::max(0.0, waited - (sum[kElapsed] - computing));
  const double share = waited > 0 ? lost / computing / waited : 0;
  times_ = {sum[kElapsed] / world_.workers(), share * sum[kWaitedStatistics], share * sum[kWaitedGradients]};
  TrainStatistics all;
  all.add(sum[kLoss], static_cast<std::int64_t>(sum[kCorrect]), static_cast<std::int64_t>(sum[kSamples]));
  return all;
}

void WorkerLoop::report_nonfinite() {
  // Find which worker and layer met it first: the lowest layer, then the lowest worker.
  const int layers = static_cast<int>(experiment_.model.layers.size());
  const int layer = network_.first_nonfinite_layer();
  double first = static_cast<double>(layer < 0 ? layers : layer) * world_.workers() + worker_.index();
  metrics_.all_reduce(std::span<double>(&first, 1), Reduce::min, {"first non-finite value", step_});
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
      step_ + 1, where));
}

template <class Work>
void WorkerLoop::together(Work work) {
  if (!shared_.backend.device()) {
    work(worker_.index() - shared_.memory.first_worker(), shared_.memory.workers());
  } else if (is_first_here()) {
    ops::within(shared_.backend.device(), "update", [&] { work(0, 1); });
  }
  all_done_.wait({"update", step_});
}

std::optional<double> WorkerLoop::gradient_scale(std::span<const float> gradient) {
  const double limit = experiment_.config.clip_norm, unscale = 1 / shared_.loss_scale.value();
  if (limit <= 0 && !shared_.loss_scale.active()) return 1;
  together(
      [&](int part, int parts) { shared_.optimizer->squares(gradient, shared_.squares, part, parts); });  // SQUARES
  double sum = 0;
  for (const double s : shared_.squares) sum += s;
  if (shared_.loss_scale.active() && !std::isfinite(sum)) return std::nullopt;
  if (limit <= 0) return unscale;
  if (!std::isfinite(sum))
    throw Diverged(
        fmt::format("the gradient of step {} is not finite; it has changed no weight: lower optimizer.lr or add "
                    "warm-up, and start anew, from an earlier checkpoint if you like (model.weights)",
                    step_ + 1));
  return unscale * std::min(1.0, limit / (unscale * std::sqrt(sum) + 1e-6));
}

void WorkerLoop::report_loss_scale(bool updated) {
  if (is_first()) shared_.reporter->loss_scale(step_ + 1, shared_.loss_scale.value(), updated);
  if (!shared_.loss_scale.exhausted()) return;
  throw Diverged(fmt::format(
      "the gradient of step {} is not finite even if the loss is scaled by {}; it has changed no weight: go on with "
      "--resume and precision: bfloat16, or lower optimizer.lr and start anew, from an earlier checkpoint if you like "
      "(model.weights)",
      step_ + 1, 2 * shared_.loss_scale.value()));
}

void WorkerLoop::fetch_gradient(FlatRange r) {
  if (gradient_here_.empty() || r.count == 0) return;
  const auto part =
      std::span(gradient_here_).subspan(static_cast<std::size_t>(r.offset), static_cast<std::size_t>(r.count));
  network_.settle();
  network_.backend().download(gradient_.data() + r.offset, part.data(), part.size_bytes());
  divide(part, shared_.loss_scale.value());
}

/// Shows the probes the summed gradient. They look at CPU memory.
void WorkerLoop::show_gradient(std::span<const float> gradient) {
  std::span<const float> exchanged = shared_.exchange.result();
  if (shared_.backend.device()) {
    together([&](int, int) {
      shared_.state.fetch();
      exchanged = readable(shared_.backend, exchanged, shared_.probed_exchanged);
      gradient = readable(shared_.backend, gradient, shared_.probed_gradient);
      for (std::vector<float>* copy : {&shared_.probed_exchanged, &shared_.probed_gradient})
        divide(*copy, shared_.loss_scale.value());
    });  // FETCHED
    exchanged = shared_.probed_exchanged;
    gradient = shared_.probed_gradient;
  }
  probes_->gradient_summed(exchanged, gradient);
  all_done_.wait({"probes", step_});  // SHOWN: nobody changes the weights while the probes look at them
}

void WorkerLoop::update_weights() {
  ModelState& state = shared_.state;
  const std::span<float> gradient(shared_.total_gradient.as<float>(), static_cast<std::size_t>(state.flat_size()));
  if (device()) {
    device()->set(*computed_);
    shared_.backend.device()->follow(*computed_);
    worker_.local_barrier({"update", step_});
  }
  together([&](int part, int parts) {
    state.finish_gradient(shared_.exchange.result(), gradient_, gradient, part, parts);
  });  // GRADIENT
  if (probing_) show_gradient(gradient);
  const std::optional<double> scale = gradient_scale(gradient);
  const double loss_scale = shared_.loss_scale.value();
  const double lr = learning_rate(experiment_.schedule, step_, experiment_.total_steps);
  together([&](int part, int parts) {
    if (scale) shared_.optimizer->update(state.kernels(), gradient, lr, *scale, part, parts);
    if (part == 0) state.update_statistics(gradient);
  });  // UPDATED
  if (is_first_here()) {
    state.count_batches(experiment_.config.train.accumulate);
    if (scale) shared_.optimizer->count_update();
    shared_.loss_scale.update(scale.has_value());
  }
  together([&](int part, int parts) {
    state.pack(part, parts);
    if (device()) shared_.backend.device()->set(*shared_.device.updated);
  });  // PACKED
  if (device()) device()->follow(*shared_.device.updated);
  if (shared_.loss_scale.value() != loss_scale) report_loss_scale(scale.has_value());
}

void WorkerLoop::compare_copies(std::int64_t steps_done) {
  // Sums computed by MPI or NCCL itself need not be the same everywhere.
  if (shared_.memory.workers() == world_.workers() || experiment_.config.reduction == "native") return;
  const bool has_copy = worker_.index() == shared_.memory.first_worker();
  require_same_copies(worker_, metrics_, has_copy ? hash_state(shared_.state, *shared_.optimizer) : 0, steps_done);
}

bool WorkerLoop::evaluate_if_due(std::int64_t steps_done) {
  const bool final = steps_done == experiment_.total_steps;
  if (!final && !experiment_.due(experiment_.config.train.eval_every, steps_done)) return false;
  compare_copies(steps_done);
  const std::vector<EvalResult> results = shared_.evaluator.run(
      network_, experiment_.split(experiment_.config.train.eval_split), worker_, metrics_, steps_done);
  if (final && !std::isfinite(results.front().loss))
    throw Diverged(
        "the loss of the final evaluation is not a finite number: lower optimizer.lr, add warm-up or "
        "optimizer.clip_norm, and start anew, from an earlier checkpoint if you like (model.weights)");
  const double accuracy = results.front().accuracy;
  const bool improved = accuracy > shared_.progress.best_accuracy;
  worker_.local_barrier({"evaluation", steps_done});  // COMPARED: everybody has read the best accuracy
  if (is_first_here()) {
    shared_.progress.evaluations = results;
    shared_.progress.last_evaluation = steps_done;
    if (improved) shared_.progress.best_accuracy = accuracy;
  }
  if (is_first()) shared_.reporter->evaluation(steps_done, results, shared_.progress.best_accuracy, final);
  worker_.local_barrier({"evaluation", steps_done});  // RECORDED
  return improved;
}

void WorkerLoop::save_if_due(std::int64_t steps_done, bool improved) {
  const Config::Checkpoint& when = experiment_.config.checkpoint;
  const bool is_best = improved && when.keep_best;
  const bool final = steps_done == experiment_.total_steps;
  if (!final && !shared_.stopping && !is_best && !experiment_.due(when.every, steps_done)) return;
  if (shared_.progress.last_evaluation != steps_done) compare_copies(steps_done);
  if (is_first()) shared_.save(is_best, final || shared_.stopping);
  worker_.local_barrier({"checkpoint", steps_done});  // nobody changes the weights while they are copied
}

}  // namespace syncbn
