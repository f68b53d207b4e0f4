#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nn/arena.hpp"
#include "nn/model_state.hpp"
#include "ops/backend.hpp"

namespace syncbn {

/// The order in which one worker's copy of a network processes a batch, and the places of its activations.
///
/// Only at layers that share statistics must a worker have seen all its samples. Between two of them the network
/// processes the batch in small chunks, layer after layer, so that each layer's output is still in cache when the next
/// layer reads it; such a part is a Stretch. In backward, the weight gradients of a stretch are computed while the
/// message at its end is under way.
struct NetworkPlan {
  enum class Action { forward, accumulate, backward, accumulate_backward };
  struct Step {
    Action action;
    int layer;
  };
  /// Steps that process the batch chunk by chunk; then, in backward, the parameter gradients that can be computed; a
  /// stretch ends at a batch norm layer's message (or the end of the network).
  struct Stretch {
    std::vector<Step> steps;
    std::vector<int> parameters;
    int norm = -1;
    std::int64_t chunk = 1;
  };

  std::vector<int> norms;  ///< layers that share statistics
  std::vector<Stretch> forward, backward;
  std::vector<FlatRange> added_to;         ///< ranges of the flat gradient that layers add to
  std::vector<Tensor> outputs, gradients;  ///< per layer; without memory until place()
  std::vector<bool> needs_gradient;        ///< per layer
  ArenaPlan arena;                         ///< memory of the outputs, then of their gradients

  /// Assigns memory to the tensors; `memory`: arena.bytes bytes.
  void place(std::byte* memory);
};

/// Makes the plan. Throws Error(usage) for more samples than any memory can hold.
NetworkPlan plan_network(const ModelState& state, const ops::Backend& backend, std::int64_t max_samples);

}  // namespace syncbn
