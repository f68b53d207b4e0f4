#pragma once

#include "train/probes/probe.hpp"

namespace syncbn {

/// The probes of one worker that its configuration asks for and its experiment has something for.
class Probes {
 public:
  /// nullptr if there are none.
  static std::unique_ptr<Probes> make(const ProbeContext& context, const std::map<std::string, std::string>& state);

  void gradient_ready(int layer);
  void batch_done(const ProbedUpdate& update);
  void gradient_summed(std::span<const float> exchanged, std::span<const float> gradient);
  std::vector<Measurement> measure();
  std::map<std::string, std::string> state() const;

 private:
  std::vector<std::unique_ptr<Probe>> probes_;
  ProbedUpdate update_;
};

/// Throws Error(usage) unless every pattern of probes.layers matches a layer.
void check_probes(const Config& config, const Model& model);

/// Whether the probe of this name is asked for.
bool wants_probe(const Config::Probes& options, const std::string& name);

/// Why a probe finds nothing to measure in an experiment; "" if it does. `groups`: normalization groups.
std::string probe_obstacle(const std::string& name, const Model& model, int workers, int groups);

}  // namespace syncbn
