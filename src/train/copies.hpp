#pragma once

#include <cstdint>

#include "nn/model_state.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/optim/optimizer.hpp"

namespace syncbn {

/// Hash of weights, running statistics and optimizer state; never 0.
std::uint64_t hash_state(ModelState& state, Optimizer& optimizer);

/// Every machine, or rank, has its own copy of weights and optimizer, and all make the same updates, so that copies
/// only differ if memory is damaged. `hash`: that of this rank's copy from one of its workers; 0 from the others, and
/// where another rank's copy is shared. Throws Error on all workers alike, naming a rank whose copy differs from the
/// majority. Collective over all workers, whose communicator is given.
void require_same_copies(const Worker& worker, const Communicator& all, std::uint64_t hash, std::int64_t steps_done);

}  // namespace syncbn
