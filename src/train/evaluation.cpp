#include "train/evaluation.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "syncbn/train/checkpoint.hpp"
#include "syncbn/train/safetensors.hpp"
#include "train/compute.hpp"
#include "train/experiment.hpp"
#include "train/state_io.hpp"

namespace syncbn {

EvalResult evaluate_network(Network& network, const Dataset& dataset, const Augmentation& augmentation,
                            std::int64_t max_samples, const Communicator& all, std::int64_t step) {
  const Slice slice = slice_of(dataset.size(), all.size(), all.rank());
  const std::int64_t longest = slice_of(dataset.size(), all.size(), 0).count;
  std::vector<int> labels(static_cast<std::size_t>(max_samples));
  const std::int64_t pixels = dataset.channels() * dataset.height() * dataset.width();
  std::vector<float> images(static_cast<std::size_t>(max_samples * pixels));
  double loss = 0;
  std::array<std::int64_t, 2> counts{};
  // Everybody makes the same number of passes, because layers without running statistics communicate.
  for (std::int64_t done = 0; done < longest; done += max_samples) {
    const std::int64_t n = std::clamp<std::int64_t>(slice.count - done, 0, max_samples);
    load_plain(dataset, slice.begin + done, n, augmentation, images.data(), labels.data());
    network.set_images(images.data(), n);
    Pass pass;
    pass.mode = Mode::eval;
    pass.n = n;
    pass.step = step;
    network.forward(pass);
    network.start_loss(std::span(labels).first(static_cast<std::size_t>(n)), 0, 0);
    const LossResult r = network.finish_loss();
    loss += r.loss_sum;
    counts[0] += r.correct;
    counts[1] += n;
  }
  all.all_reduce(std::span<double>(&loss, 1), Reduce::sum, {"evaluation loss", step});
  all.all_reduce(std::span<std::int64_t>(counts), Reduce::sum, {"evaluation counts", step});
  EvalResult result;
  result.correct = counts[0];
  result.samples = counts[1];
  result.accuracy = static_cast<double>(counts[0]) / static_cast<double>(counts[1]);
  result.loss = loss / static_cast<double>(counts[1]);
  return result;
}

EvalResult evaluate(World& world, const Config& config, const std::string& weights_path, const std::string& split) {
  const auto backend = make_backend(world, config.device);
  const Experiment experiment = make_experiment(world, config, *backend);
  ModelState state(experiment.model, experiment.norm, *backend);
  load_model(state, CheckpointStore::load(weights_path).model);
  EvalResult result;
  world.run([&](Worker& worker) {
    backend->prepare_thread();
    const Communicator group = make_norm_group(worker, config.norm);
    Network network(state, *backend, group, world.workers() / group.size(), config.batch_per_worker, {});
    const EvalResult r = evaluate_network(network, experiment.split(split), experiment.augmentation,
                                          config.batch_per_worker, worker.all(), 0);
    if (worker.local_index() == 0) result = r;
  });
  return result;
}

}  // namespace syncbn
