#pragma once

#include <string>

#include "nn/network.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn {

/// Exact accuracy and mean loss of the network on a whole data set, each worker on its slice. Sends one message,
/// besides the statistics of layers without running ones. Collective over the workers of `all`.
EvalResult evaluate_network(Network& network, const Dataset& dataset, const Augmentation& augmentation,
                            std::int64_t max_samples, const Communicator& all, std::int64_t step);

}  // namespace syncbn
