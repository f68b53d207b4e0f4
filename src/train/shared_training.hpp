#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "comm/gradients/gradient_exchange.hpp"
#include "comm/gradients/machine_memory.hpp"
#include "nn/network.hpp"
#include "nn/repeated_pass.hpp"
#include "syncbn/optim/optimizer.hpp"
#include "train/buckets.hpp"
#include "train/device_parts.hpp"
#include "train/evaluation.hpp"
#include "train/experiment.hpp"
#include "train/loss_scale.hpp"
#include "train/reporting/reporter.hpp"
#include "train/run_progress.hpp"

namespace syncbn {

/// What the workers of one rank share during a training. Ranks that share memory (MachineMemory) have `state`,
/// `optimizer`, `total_gradient` and `squares` in common.
///
/// Barriers keep one worker from writing what another still reads. In order, as comments of worker_loop.cpp name them;
/// those in brackets only where they are needed:
///
///   every step        EXCHANGED (GradientExchange::wait: all gradients are summed), GRADIENT, [FETCHED, SHOWN],
///                     [SQUARES], UPDATED, PACKED: each waits for all workers that share the weights
///   every evaluation  COMPARED, RECORDED: each waits for the workers of this rank
///
///   member                         written by                   between              read by
///   -----------------------------  ---------------------------  -------------------  ------------------------------
///   total_gradient                 each worker its part (1)     EXCHANGED, GRADIENT  all until UPDATED
///   probed_exchanged, _gradient    first worker of the rank     GRADIENT, FETCHED    all until SHOWN
///   squares                        each worker its part (1)     GRADIENT, SQUARES    all until UPDATED
///   state, optimizer               each worker its part (1)     GRADIENT, PACKED     all from PACKED to GRADIENT (2)
///   loss_scale, update counts      first worker of the rank     UPDATED, PACKED      all from PACKED to UPDATED
///   progress: evaluations,         first worker of the rank     COMPARED, RECORDED   all from RECORDED to COMPARED
///     last_evaluation,
///     best_accuracy
///   progress: steps_done, updates, worker 0                     -                    worker 0
///     of_probes
///   stopping                       all, the same value          EXCHANGED, GRADIENT  all
///
/// (1) On a device: the first worker of the rank writes all of it. (2) By the probes until SHOWN.
struct SharedTraining {
  /// `m`: where the backend `b` allocates on the CPU, planned and not yet made real. Collective over ranks.
  SharedTraining(World& w, const Config& config, const ops::Backend& b, MachineMemory& m);

  World& world;
  const ops::Backend& backend;
  MachineMemory& memory;
  const Experiment experiment;
  ModelState state;
  std::vector<ParameterSlot> slots;
  std::unique_ptr<Optimizer> optimizer;
  BucketPlan buckets;
  DeviceParts device;
  GradientExchange exchange;
  RepeatedPass forward, backward;
  std::vector<float> probed_exchanged, probed_gradient;  ///< copies from a device, for probes
  ops::Memory total_gradient;                            ///< summed over all workers
  std::span<double> squares;                             ///< of each parameter's gradient
  LossScale loss_scale;
  Loader loader;
  Evaluator evaluator;
  RunProgress progress;  ///< at first as of the checkpoint that the run goes on from
  std::int64_t first_step = 0;
  std::atomic<bool> stopping = false;

  // On the rank of worker 0 only.
  Reporter* reporter = nullptr;
  std::function<void(bool is_best, bool last)> save;  ///< writes a checkpoint
};

}  // namespace syncbn
