#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train/storage/safetensors.hpp"

namespace syncbn {

class FileSystem;
class FolderLock;

/// Everything a run needs to go on: model tensors (torchvision names), optimizer buffers
/// ("optimizer.<state>.<parameter>"), single figures.
struct TrainingState {
  std::int64_t step = 0;  ///< updates made
  SafetensorsFile model;  ///< as in final.safetensors
  SafetensorsFile optimizer;
  /// Exact decimal or hex-float text: seed, fingerprint of the data, best accuracy, ... Where the sampler is follows
  /// from the step.
  std::map<std::string, std::string> scalars;
};

/// The checkpoints of one run directory: DIR/checkpoints/step-000001234/{model,optimizer}.safetensors, committed by
/// manifest.json (written last: step, files, lengths, SHA-256 hashes of the bytes in memory, scalars, whether it is the
/// best, its own hash). A checkpoint exists when its manifest does. Used by one process (the one of worker 0).
class CheckpointStore {
 public:
  /// `dir`: the run directory; nothing is touched yet. `files` lets tests make system calls fail. With `lock`, which is
  /// the directory's, nothing is committed or removed once that is another's.
  CheckpointStore(std::string dir, int keep_last, bool keep_best, std::shared_ptr<FileSystem> files = nullptr,
                  std::shared_ptr<const FolderLock> lock = nullptr);

  /// Writes and commits; then removes what is neither among the last k, nor the newest one marked as best, and what is
  /// newer than this step (a resume goes on from behind only when the newer ones are damaged). A step saved twice with
  /// the same content stays committed throughout. Throws Error on I/O failure (disk full, ...): older checkpoints are
  /// untouched, and no debris is left. What `logs` hold so far, as far as there are such files, is made durable first.
  void save(const TrainingState& state, bool is_best, const std::vector<std::string>& logs = {});
  /// The newest one that is whole. Damaged ones are refused with a reason in `refused` (file and what is wrong) and
  /// the one before is used. nullopt if there is none at all. `check` throws Error for one whose scalars cannot be.
  std::optional<TrainingState> load_newest(std::vector<std::string>* refused,
                                           const std::function<void(const TrainingState&)>& check = {}) const;
  /// What a user names: a checkpoint's folder, or a .safetensors file or the folder of a run that has ended (these fill
  /// `model` only), or what resolve() knows, also while the run goes on and replaces it.
  static TrainingState load(const std::string& path);
  /// The folder of a run's checkpoint: RUN/best is the one that is marked as the best, RUN/last the newest. Other
  /// paths, and what has such a name itself, stay as they are. Throws Error(bad_data) if the run has no such
  /// checkpoint.
  static std::string resolve(const std::string& path);
  /// Throws Error(bad_data), which names the newest checkpoint, for a run's folder without the weights of its end.
  static void require_ended(const std::string& run_dir);
  std::vector<std::int64_t> steps() const;  ///< committed, ascending
  std::string folder_of(std::int64_t step) const;
  /// Removes what a crash left: folders without a manifest, temporary files. save() does so too. Only by the owner of
  /// the run directory.
  void remove_debris();

 private:
  static TrainingState load_weights(const std::string& path);
  void require_own() const;
  void remove(const std::string& folder);
  void prune(std::int64_t saved);
  std::int64_t best_of(const std::vector<std::int64_t>& steps) const;

  std::string dir_;
  int keep_last_;
  bool keep_best_;
  std::shared_ptr<FileSystem> files_;
  std::shared_ptr<const FolderLock> lock_;
};

}  // namespace syncbn
