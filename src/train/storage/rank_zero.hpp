#pragma once

#include <functional>
#include <string>

#include "syncbn/comm/world.hpp"
#include "train/storage/safetensors.hpp"

namespace syncbn {

/// Does what only one rank may do; the others learn whether that went well, so that nobody waits in vain. Throws Error
/// on all ranks alike. Collective over ranks.
void on_rank_zero(const World& world, const std::function<void()>& work);

/// Rank 0's file, on all ranks. `origin` names it in errors. Collective over ranks.
SafetensorsFile broadcast(const World& world, const SafetensorsFile& file, const std::string& origin);

/// The weights that CheckpointStore::load() finds at `path`, read by one rank for all: others may not see its files.
/// Collective over ranks.
SafetensorsFile read_weights(const World& world, const std::string& path);

}  // namespace syncbn
