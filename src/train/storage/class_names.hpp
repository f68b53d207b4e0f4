#pragma once

#include <string>
#include <vector>

#include "syncbn/nn/model.hpp"
#include "train/storage/safetensors.hpp"

namespace syncbn {

// Weights name in their metadata the classes of the network's outputs, in order: without the names, those of other data
// of as many classes would be taken for the same.

/// Nothing is written where they are not known.
void put_class_names(SafetensorsFile& weights, const std::vector<std::string>& names);
/// Empty: the weights do not tell.
std::vector<std::string> class_names(const SafetensorsFile& weights);

/// Of weights that a training of `model` on data with the classes `names` starts from, but for tensors whose name
/// matches one of `except`: throws Error(bad_data) if their outputs are of other classes.
void require_same_classes(const SafetensorsFile& weights, const std::vector<std::string>& names, const Model& model,
                          const std::vector<std::string>& except);

}  // namespace syncbn
