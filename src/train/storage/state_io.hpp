#pragma once

#include "nn/model_state.hpp"
#include "syncbn/optim/optimizer.hpp"
#include "train/storage/safetensors.hpp"

namespace syncbn {

/// Weights and running statistics under torchvision's names.
SafetensorsFile store_model(ModelState& state);
/// The reverse, but for tensors, of the model or the file, whose name matches one of `except` (names or glob patterns).
/// Throws Error(bad_data) naming the tensor that is missing, has another shape, or is not of this model; Error(usage)
/// for a pattern that matches none. Brings packed forms up to date. Returns what it has left off the front of the
/// file's names, because all have it and none of the model's has: what PyTorch's wrappers put there; usually empty.
std::string load_model(ModelState& state, const SafetensorsFile& file, const std::vector<std::string>& except = {});

/// For weights just loaded from `origin` as a starting point: throws Error(bad_data) naming a tensor that is not finite
/// in float32, or a variance below 0. Not for checkpoints: these may be so, and the training that goes on from one says
/// why it diverges, if it does.
void require_finite(ModelState& state, const std::string& origin);

/// A message for the user about what load_model() returned.
std::string left_off_text(const std::string& prefix, const std::string& weights);

/// Optimizer buffers as "optimizer.<buffer>.<parameter>".
SafetensorsFile store_optimizer(const ModelState& state, Optimizer& optimizer);
void load_optimizer(const ModelState& state, Optimizer& optimizer, const SafetensorsFile& file);

/// Where the optimizer finds each parameter.
std::vector<ParameterSlot> parameter_slots(const ModelState& state);

}  // namespace syncbn
