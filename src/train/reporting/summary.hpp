#pragma once

#include <string>
#include <vector>

#include "syncbn/train/trainer.hpp"
#include "train/experiment.hpp"

namespace syncbn {

/// What summary.json says of a training that has ended. `command`: argv.
std::string summary_json(const TrainResult& result, const Experiment& experiment, const World& world,
                         const ops::Backend& backend, const std::vector<std::string>& command);

}  // namespace syncbn
