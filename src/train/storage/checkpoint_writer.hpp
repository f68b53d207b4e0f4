#pragma once

#include <functional>
#include <future>
#include <string>
#include <vector>

#include "train/storage/checkpoint.hpp"

namespace syncbn {

/// Writes a run's checkpoints while its training goes on: waiting for the disk would let the other ranks run into their
/// time limits.
class CheckpointWriter {
 public:
  /// `logs`: see CheckpointStore::save().
  CheckpointWriter(CheckpointStore store, std::vector<std::string> logs)
      : store_(std::move(store)), logs_(std::move(logs)) {}
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Starts to write what `snapshot` gives. While the one before is still being written, does nothing and returns
  /// false; the best one so far, and the `last`, which nothing follows, are written after it instead. Throws what went
  /// wrong with an earlier one.
  bool save(const std::function<TrainingState()>& snapshot, bool is_best, bool last);
  /// Waits until all are written. Throws what went wrong.
  void finish();
  const CheckpointStore& store() const { return store_; }

 private:
  CheckpointStore store_;
  const std::vector<std::string> logs_;
  std::shared_future<void> saving_;
  bool one_waits_ = false;  // to be written after the one that is being written
};

}  // namespace syncbn
