#pragma once

#include <cstdint>

#include "nn/model_state.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/optim/optimizer.hpp"

namespace syncbn {

/// Of weights, running statistics and optimizer; not 0.
std::uint64_t hash_state(ModelState& state, Optimizer& optimizer);

/// Every machine, or rank, has a copy of weights and optimizer of its own, and all make the same updates: copies come
/// to differ when memory is damaged. `hash`: of this rank's copy, by one of its workers; 0 by the others, and where
/// another rank's is shared. Throws Error, on all workers alike, which names a rank whose copy is not as most.
/// Collective over all workers, whose communicator is given.
void require_same_copies(const Worker& worker, const Communicator& all, std::uint64_t hash, std::int64_t steps_done);

}  // namespace syncbn
