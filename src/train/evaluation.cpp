#include "train/evaluation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "core/console.hpp"
#include "nn/host_copy.hpp"
#include "train/compute.hpp"
#include "train/experiment.hpp"
#include "train/storage/class_names.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/rank_zero.hpp"
#include "train/storage/state_io.hpp"

namespace syncbn {

namespace {

/// In an evaluation, workers wait for each other after this many images each. Otherwise a worker with more to do than
/// others, or a thread with many workers, could take longer for all its images than the others' time limit.
constexpr std::int64_t kImagesBetweenMeetings = 64;

Statistics statistics_of(const std::string& name) {
  return name == "precise" ? Statistics::precise : name == "batch" ? Statistics::batch : Statistics::running;
}

}  // namespace

/// Messages on how far a long evaluation has come: from worker 0, every ten seconds.
class Evaluator::Notes {
 public:
  Notes(const Evaluator& owner, const Communicator& all) : say_(all.rank() == 0 ? owner.say_ : nullptr) {}
  void done(const char* what, std::int64_t part, std::int64_t whole) {
    const Clock::time_point now = Clock::now();
    if (!say_ || now < last_ + std::chrono::seconds(10)) return;
    last_ = now;
    say_(fmt::format("{}: {} % done", what, 100 * part / whole));
  }

 private:
  using Clock = std::chrono::steady_clock;
  const std::function<void(const std::string&)> say_;
  Clock::time_point last_ = Clock::now();
};

Evaluator::Evaluator(const World& world, const Experiment& experiment, std::function<void(const std::string&)> say)
    : experiment_(experiment),
      say_(std::move(say)),
      loading_threads_(experiment.config.data.kind == "image-folder"
                           ? std::max(1, experiment.config.data.threads / world.local_workers())
                           : 0) {
  const std::vector<std::string> wanted = experiment.eval_statistics();
  if (std::find(wanted.begin(), wanted.end(), "precise") == wanted.end()) return;
  train_images_.emplace(experiment.train_set, loader_options(world, experiment));
}

std::vector<EvalResult> Evaluator::run(Network& network, const Dataset& dataset, Worker& worker,
                                       const Communicator& all, std::int64_t step,
                                       std::vector<Prediction>* predictions) {
  if (train_images_) measure_population(network, worker, all, step);
  std::vector<EvalResult> results;
  for (const std::string& name : experiment_.eval_statistics()) {
    results.push_back(
        evaluate(network, dataset, all, step, statistics_of(name), results.empty() ? predictions : nullptr));
    results.back().statistics = name;
  }
  return results;
}

EvalResult Evaluator::evaluate(Network& network, const Dataset& dataset, const Communicator& all, std::int64_t step,
                               Statistics statistics, std::vector<Prediction>* predictions) const {
  const std::int64_t max_samples = experiment_.config.batch_per_worker;
  const Slice slice = slice_of(dataset.size(), all.size(), all.rank());
  const std::int64_t longest = slice_of(dataset.size(), all.size(), 0).count;
  // All workers make the same number of passes, because they share the statistics of batches; the batches are of about
  // the same size, because a small last one would give poor statistics.
  const auto passes = static_cast<int>((longest + max_samples - 1) / max_samples);
  PlainLoader images(dataset, experiment_.augmentation, slice, passes, loading_threads_);
  const auto passes_between_meetings =
      static_cast<int>(std::max<std::int64_t>(1, kImagesBetweenMeetings / max_samples));
  Notes notes(*this, all);
  double loss = 0;
  std::array<std::int64_t, 3> counts{};
  HostCopy host_copy(network.backend());
  for (int i = 0; i < passes; ++i) {
    const Batch& batch = images.next();
    network.set_images(batch.images.data(), batch.n);
    Pass pass;
    pass.mode = Mode::eval;
    pass.statistics = statistics;
    pass.n = batch.n;
    pass.step = step;
    network.forward(pass);
    network.start_loss(batch.labels, 0, 0);
    const LossResult r = network.finish_loss();
    loss += r.loss_sum;
    counts[0] += r.correct;
    counts[1] += batch.n;
    const Tensor logits = host_copy(network.logits(), {0, batch.n});
    for (std::int64_t s = 0; s < batch.n; ++s) {
      const std::span<const float> of_image(logits.sample(s), static_cast<std::size_t>(logits.shape.c()));
      const int rank = label_rank(of_image, batch.labels[s]);
      counts[2] += rank >= 1 && rank <= 5;
      if (predictions) predictions->push_back(predict(of_image, batch.labels[s]));
    }
    if ((i + 1) % passes_between_meetings == 0) all.barrier({"evaluation", step});
    notes.done("evaluation", i + 1, passes);
  }
  all.all_reduce(std::span<double>(&loss, 1), Reduce::sum, {"evaluation loss", step});
  all.all_reduce(std::span<std::int64_t>(counts), Reduce::sum, {"evaluation counts", step});
  EvalResult result;
  result.correct = counts[0];
  result.samples = counts[1];
  result.accuracy = static_cast<double>(counts[0]) / static_cast<double>(counts[1]);
  if (dataset.classes() > 5) result.top5_accuracy = static_cast<double>(counts[2]) / static_cast<double>(counts[1]);
  result.loss = std::abs(loss / static_cast<double>(counts[1]));  // a NaN has a sign
  return result;
}

// As in the published implementations, this takes the first batches of an epoch, augmented and grouped as in training.
// They are always those of the first epoch, so that the statistics depend on the weights alone.
void Evaluator::measure_population(Network& network, Worker& worker, const Communicator& all, std::int64_t step) {
  if (worker.local_index() == 0) train_images_->seek(0, 0);
  worker.local_barrier({"population statistics", step});
  network.begin_population();
  const std::int64_t batches = experiment_.precise_batches();
  Notes notes(*this, all);
  for (std::int64_t i = 0; i < batches; ++i) {
    const Batch& batch = train_images_->next(worker.local_index());
    network.set_images(batch.images.data(), batch.n);
    Pass pass;
    pass.mode = Mode::eval;
    pass.statistics = Statistics::batch;
    pass.population = true;
    pass.n = batch.n;
    pass.step = step;
    network.forward(pass);
    // The loader cannot give one worker batches that its neighbours are far from needing.
    worker.local_barrier({"population statistics", step});
    notes.done("precise statistics", i + 1, batches);
  }
  network.finish_population(all, step);
}

std::vector<EvalResult> evaluate(World& world, const Config& config, const std::string& weights_path,
                                 const std::string& split, const std::string& predictions_path) {
  const auto backend = make_backend(world, config);
  const SafetensorsFile weights = read_weights(world, weights_path);
  const Experiment experiment = make_evaluation(world, config, *backend, split, class_names(weights));
  const Dataset& images = experiment.split(split);
  ModelState state(experiment.model, experiment.norm, *backend);
  const std::string left_off = load_model(state, weights);
  require_finite(state, weights_path);
  if (!left_off.empty() && world.rank() == 0)
    write_stderr(fmt::format("syncbn: {}\n", left_off_text(left_off, weights_path)));
  if (const std::string& note = images.note(); !note.empty() && world.rank() == 0)
    write_stderr(fmt::format("syncbn: {}\n", note));
  Evaluator evaluator(world, experiment,
                      [](const std::string& line) { write_stderr(fmt::format("syncbn: {}\n", line)); });
  const auto groups = static_cast<int>(norm_groups(world, config.norm).size());
  std::vector<EvalResult> results;
  std::vector<Prediction> predictions;  // on rank 0
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    const Communicator group = make_norm_group(worker, config.norm);
    Network network(state, *backend, group, groups, config.batch_per_worker, {});
    network.set_pixel_values(experiment.pixel_values);
    std::vector<Prediction> own;
    const std::vector<EvalResult> r =
        evaluator.run(network, images, worker, worker.all(), 0, predictions_path.empty() ? nullptr : &own);
    if (worker.local_index() == 0) results = r;
    if (predictions_path.empty()) return;
    std::vector<Prediction> every = gather(own, images.size(), worker.all());
    if (worker.index() == 0) predictions = std::move(every);
  });
  if (!predictions_path.empty())
    on_rank_zero(world, [&] { write_text(predictions_path, predictions_csv(images, predictions)); });
  return results;
}

}  // namespace syncbn
