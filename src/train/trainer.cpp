#include "syncbn/train/trainer.hpp"

#include <atomic>

#include "syncbn/comm/machine_memory.hpp"
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
  const bool on_cpu = request.config.device == "cpu";
  MachineMemory memory(world, on_cpu);
  const auto in_common = [&memory](std::size_t bytes) {
    return ops::Memory({std::shared_ptr<void>(), memory.take(bytes)}, bytes);
  };
  const auto backend = on_cpu ? ops::make_cpu_backend(in_common) : make_backend(world, request.config);
  TrainingRun run(world, request, *backend, memory);
  world.run([&](Worker& worker) { run.work(worker); });
  return run.finish();
}

}  // namespace syncbn
