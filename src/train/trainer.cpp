#include "syncbn/train/trainer.hpp"

#include <atomic>

#include "comm/gradients/machine_memory.hpp"
#include "train/compute.hpp"
#include "train/training_run.hpp"

namespace syncbn {

namespace {

// The only thing a signal handler may touch.
std::atomic<bool> stop_flag = false;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void request_stop() noexcept {
  stop_flag = true;
}
bool stop_requested() noexcept {
  return stop_flag;
}

TrainResult train(World& world, const TrainRequest& request) {
  MachineMemory memory(world, request.config.device == "cpu");
  const auto in_common = [&memory](std::size_t bytes) {
    return ops::Memory({std::shared_ptr<void>(), memory.take(bytes)}, bytes);
  };
  const auto backend = make_backend(world, request.config, in_common);
  TrainingRun run(world, request, *backend, memory);
  world.run([&](Worker& worker) { run.work(worker); });
  return run.finish();
}

}  // namespace syncbn
