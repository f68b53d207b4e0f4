#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nn/arena.hpp"
#include "nn/model_state.hpp"
#include "ops/backend.hpp"

namespace syncbn {

/// In which order one worker's copy of a network goes through a batch, and where its activations lie.
///
/// The layers that share statistics are the only points where a worker must have seen all its samples. Between two the
/// network goes through the batch in small chunks, layer after layer, so that what one layer writes is in cache when
/// the next one reads it; such a part is a Stretch. Backward, the weight gradients of a stretch are computed while the
/// message that ends it is under way.
struct NetworkPlan {
  enum class Action { forward, accumulate, backward, accumulate_backward };
  struct Step {
    Action action;
    int layer;
  };
  /// Steps that go through the batch chunk by chunk; then, in backward, the parameter gradients that have become
  /// possible; the stretch ends at a batch norm layer's message (or the end of the network).
  struct Stretch {
    std::vector<Step> steps;
    std::vector<int> parameters;
    int norm = -1;
    std::int64_t chunk = 1;
  };

  std::vector<int> norms;  ///< layers that share statistics
  std::vector<Stretch> forward, backward;
  std::vector<FlatRange> added_to;         ///< of the flat gradient: what layers do not assign
  std::vector<Tensor> outputs, gradients;  ///< of the layers; without memory until place()
  std::vector<bool> needs_gradient;        ///< likewise
  ArenaPlan arena;                         ///< of the outputs, then of their gradients

  /// Of arena.bytes.
  void place(std::byte* memory);
};

/// Throws Error(usage) for more samples than any memory has room for.
NetworkPlan plan_network(const ModelState& state, const ops::Backend& backend, std::int64_t max_samples);

}  // namespace syncbn
