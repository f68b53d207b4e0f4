#include "train/device_parts.hpp"

#include "nn/normalization/norm_layer.hpp"

namespace syncbn {

DeviceParts::DeviceParts(World& world, const ops::Backend& backend, const Experiment& experiment) {
  if (!backend.device()) return;
  for_gradients = std::make_shared<RankDevice>(backend, world.local_workers());
  updated = backend.device()->make_mark();
  const int group_size = norm_group_size(world.workers(), experiment.config.norm);
  // Batch renormalization computes its sums on the CPU.
  if (group_size == 1 || experiment.norm.renorm) return;
  messenger = backend.for_worker(/*urgent=*/true);
  for_statistics = std::make_shared<RankDevice>(*messenger, world.local_workers());
  sums = DeviceSums::make(world, group_size, for_statistics, longest_message(experiment.model));
}

void DeviceParts::attach(int local, const ops::Device& device) const {
  for (const auto& exchange : {for_gradients, for_statistics})
    if (exchange) exchange->attach(local, device);
}

}  // namespace syncbn
