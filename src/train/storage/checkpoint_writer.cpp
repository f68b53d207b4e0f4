#include "train/storage/checkpoint_writer.hpp"

#include <chrono>
#include <memory>
#include <utility>

namespace syncbn {

bool CheckpointWriter::save(const std::function<TrainingState()>& snapshot, bool is_best, bool last) {
  using namespace std::chrono_literals;
  bool busy = saving_.valid() && saving_.wait_for(0s) != std::future_status::ready;
  if (busy && !last && !is_best) return false;
  if (busy && !last && one_waits_) busy = false;  // or memory would fill with them
  if (saving_.valid() && !busy) saving_.get();    // rethrows what went wrong
  one_waits_ = busy;
  const auto write = [this, before = busy ? saving_ : std::shared_future<void>(),
                      state = std::make_shared<const TrainingState>(snapshot()), is_best]() mutable {
    if (before.valid()) before.get();
    before = {};
    store_.save(*std::exchange(state, nullptr), is_best, logs_);
  };
  saving_ = std::async(std::launch::async | std::launch::deferred, write);
  if (saving_.wait_for(0s) == std::future_status::deferred) saving_.get();  // no thread is to be had
  return true;
}

void CheckpointWriter::finish() {
  if (saving_.valid()) saving_.get();
}

}  // namespace syncbn
