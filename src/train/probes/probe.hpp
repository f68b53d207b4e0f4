#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nn/network.hpp"
#include "syncbn/comm/communicator.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

/// A row of probes.jsonl: what a probe has found at one layer or parameter.
struct Measurement {
  std::string probe;
  std::string name;                                    ///< of the layer or parameter; empty: the whole network
  std::vector<std::pair<std::string, double>> values;  ///< not a finite number: there is nothing to tell
};

/// What a worker's probes look at.
struct ProbeContext {
  ModelState& state;
  Network& network;
  std::span<const float> gradient;  ///< this worker's own flat gradient
  Communicator all;                 ///< all workers
  Communicator group;               ///< those of this worker's normalization group
  int groups = 1;                   ///< in all
  Config::Probes options;

  const Model& model() const { return state.model(); }
};

/// An update that is being watched, as one worker sees it.
struct ProbedUpdate {
  std::int64_t step = 0;         ///< updates made, this one included; names messages
  std::int64_t samples = 0;      ///< of this worker in the whole update; may be 0
  std::int64_t all_samples = 0;  ///< of all workers
  Pass pass;                     ///< the update's last batch
  std::int64_t first = 0;        ///< this worker's first sample, counted within that batch of all workers
};

/// Something to measure now and then while a network trains. One object per worker, plain SPMD code like a layer: it
/// looks at its own worker's share and exchanges sums with the others' by ordered reductions, so that what it finds has
/// the same bits on any number of ranks and threads. It changes nothing that the training depends on. During an update
/// that is watched, the functions are called in the order in which they stand here.
class Probe {
 public:
  virtual ~Probe() = default;
  /// This worker's gradient of a layer is complete (sums over its samples of the whole update, divided by the samples
  /// of all workers; convolutions' in their kernels' order), and the other workers' have not been added to it yet.
  virtual void gradient_ready(int /*layer*/) {}
  /// Forward and backward are done: the network still holds what they have left.
  virtual void batch_done(const ProbedUpdate&) {}
  /// `exchanged` is the sum over all workers, before any clipping; `gradient` is what that makes of the parameters'
  /// gradient, see ModelState::finish_gradient(). The parameters are still the old ones.
  virtual void gradient_summed(std::span<const float> /*exchanged*/, std::span<const float> /*gradient*/) {}
  /// The parameters are the new ones. Only worker 0 gets rows. Collective over all workers.
  virtual std::vector<Measurement> measure(const ProbedUpdate& update) = 0;

  /// What must outlive a restart: text by key, as in checkpoints.
  virtual void store(std::map<std::string, std::string>& /*state*/) const {}
  virtual void restore(const std::map<std::string, std::string>& /*state*/) {}
};

std::unique_ptr<Probe> make_batch_noise_probe(const ProbeContext& context);
std::unique_ptr<Probe> make_gradient_noise_probe(const ProbeContext& context);
std::unique_ptr<Probe> make_activations_probe(const ProbeContext& context);
std::unique_ptr<Probe> make_norms_probe(const ProbeContext& context);
std::unique_ptr<Probe> make_shift_probe(const ProbeContext& context);

/// Layers of the model (never the input) whose names match one of the patterns, ascending; all without patterns. Throws
/// Error(usage) naming a pattern without match and the nearest name.
std::vector<int> select_layers(const Model& model, const std::vector<std::string>& patterns);

}  // namespace syncbn
