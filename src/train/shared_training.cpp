#include "train/shared_training.hpp"

#include "train/compute.hpp"
#include "train/device_optimizer.hpp"
#include "train/storage/state_io.hpp"

namespace syncbn {

SharedTraining::SharedTraining(World& w, const Config& config, const ops::Backend& b, MachineMemory& m)
    : world(w),
      backend(b),
      memory(m),
      experiment(make_experiment(world, config, backend)),
      state(experiment.model, experiment.norm, backend),
      slots(parameter_slots(state)),
      optimizer(make_optimizer(experiment.optimizer, slots, state.flat_size(), backend)),
      buckets(plan_buckets(state, bucket_bytes(config))),
      device(world, backend, experiment),
      exchange(world, buckets.buckets, state.flat_size(), config.overlap && !device.statistics_between_ranks(),
               device.for_gradients),
      forward("forward graph", backend.device(), world.local_workers()),
      backward("backward graph", backend.device(), world.local_workers()),
      total_gradient(backend.allocate(static_cast<std::size_t>(state.flat_size()) * sizeof(float))),
      squares(reinterpret_cast<double*>(memory.take(slots.size() * sizeof(double))), slots.size()),
      loss_scale(precision_of(config).type == DataType::f16),
      loader(experiment.train_set, loader_options(world, experiment)),
      evaluator(world, experiment, [this](const std::string& line) { reporter->message(line); }) {}

}  // namespace syncbn
