#pragma once

#include <string>
#include <vector>

#include "syncbn/nn/model.hpp"
#include "train/storage/safetensors.hpp"

namespace syncbn {

// The metadata of weights name the classes of the network's outputs, in order. Without the names, data with other
// classes but as many of them would be accepted silently.

/// Stores the names; does nothing if there are none, or one is not in UTF-8.
void put_class_names(SafetensorsFile& weights, const std::vector<std::string>& names);
/// The stored names; empty if there are none.
std::vector<std::string> class_names(const SafetensorsFile& weights);

/// Checks weights that a training of `model` on data with the classes `names` is to start from: throws Error(bad_data)
/// if they name other classes, unless `except`, patterns of tensors that are not loaded, leaves out the classifier.
void require_same_classes(const SafetensorsFile& weights, const std::vector<std::string>& names, const Model& model,
                          const std::vector<std::string>& except);

}  // namespace syncbn
