#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "syncbn/train/safetensors.hpp"

namespace syncbn {

/// Commits files so that after a crash at any point the new content or the old one is there, never a mix: write
/// NAME.tmp, fsync it, rename, fsync the directory. Throws Error naming path and errno's text; leaves no debris.
void write_file_durably(const std::string& path, std::span<const std::byte> bytes);

/// Everything a run needs to go on: model tensors (torchvision names), optimizer buffers
/// ("optimizer.<state>.<parameter>"), counters in the metadata.
struct TrainingState {
  std::int64_t step = 0;  ///< updates made
  SafetensorsFile model;  ///< as in final.safetensors
  SafetensorsFile optimizer;
  std::map<std::string, std::string>
      scalars;  ///< exact decimal or hex-float text: epoch, sampler position, seed, best accuracy, ...
};

/// The checkpoints of one run directory: DIR/checkpoints/step-000001234/{model,optimizer}.safetensors, committed by
/// manifest.json (written last: step, files, lengths, XXH64 or SHA-256 hashes of the bytes in memory, scalars, its own
/// hash). A checkpoint exists when its manifest does. Used by one process (the one of worker 0).
class CheckpointStore {
 public:
  CheckpointStore(std::string dir, int keep_last, bool keep_best);

  /// Writes and commits; then removes what is neither among the last k, nor the best. Throws Error on I/O failure (disk
  /// full, ...): older checkpoints are untouched, and no debris is left.
  void save(const TrainingState& state, bool is_best);
  /// The newest one that is whole. Damaged ones are refused with a reason in `refused` (file and what is wrong) and
  /// the one before is used. nullopt if there is none at all.
  std::optional<TrainingState> load_newest(std::vector<std::string>* refused) const;
  /// A checkpoint directory or a .safetensors file named by the user (for eval).
  static TrainingState load(const std::string& path);
  std::vector<std::int64_t> steps() const;  ///< committed, ascending

 private:
  std::string dir_;
  int keep_last_;
  bool keep_best_;
};

}  // namespace syncbn
