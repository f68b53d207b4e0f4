#include "train/probes/probes.hpp"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

struct Entry {
  std::string name;
  std::unique_ptr<Probe> (*make)(const ProbeContext&);
};

/// The one table of probes. Names, configuration and construction come from it.
const std::vector<Entry>& entries() {
  static const std::vector<Entry> list{{"batch_noise", make_batch_noise_probe},
                                       {"gradient_noise_scale", make_gradient_noise_probe},
                                       {"activations", make_activations_probe},
                                       {"norms", make_norms_probe},
                                       {"shift", make_shift_probe}};
  return list;
}

}  // namespace

const std::vector<std::string>& probe_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Entry& e : entries()) list.push_back(e.name);
    return list;
  }();
  return names;
}

std::vector<int> select_layers(const Model& model, const std::vector<std::string>& patterns) {
  std::vector<bool> chosen(model.layers.size(), patterns.empty());
  for (const std::string& pattern : patterns) {
    bool found = false;
    for (std::size_t l = 1; l < model.layers.size(); ++l) {
      if (fnmatch(pattern.c_str(), model.layers[l].name.c_str(), 0) != 0) continue;
      chosen[l] = found = true;
    }
    if (found) continue;
    std::vector<std::string> names;
    for (std::size_t l = 1; l < model.layers.size(); ++l) names.push_back(model.layers[l].name);
    throw Error(fmt::format("probes.layers: no layer of the network is named '{}'{}", pattern,
                            did_you_mean(pattern, names, " (syncbn explain lists them)")),
                ExitCode::usage);
  }
  std::vector<int> layers;
  for (std::size_t l = 1; l < chosen.size(); ++l) {
    if (chosen[l]) layers.push_back(static_cast<int>(l));
  }
  return layers;
}

void check_probes(const Config& config, const Model& model) {
  select_layers(model, config.probes.layers);
}

bool wants_probe(const Config::Probes& options, const std::string& name) {
  return std::any_of(options.names.begin(), options.names.end(),
                     [&](const std::string& wanted) { return wanted == name || wanted == "all"; });
}

std::string probe_obstacle(const std::string& name, const Model& model, int workers, int groups) {
  const bool shared = std::any_of(model.layers.begin(), model.layers.end(),
                                  [](const LayerSpec& l) { return shares_statistics(l.type); });
  if (name == "batch_noise" && !shared) return "no layer normalizes by statistics of the batch";
  if (name == "batch_noise" && groups == 1) return "all workers share one group: there is no other to compare it with";
  const bool one_part = shared ? groups == 1 : workers == 1;
  if (name == "gradient_noise_scale" && one_part) {
    return workers == 1 ? "it compares workers' gradients, and there is one worker"
                        : "all workers share one group: no gradient is independent of the others";
  }
  return "";
}

std::unique_ptr<Probes> Probes::make(const ProbeContext& context, const std::map<std::string, std::string>& state) {
  auto probes = std::make_unique<Probes>();
  for (const Entry& e : entries()) {
    if (!wants_probe(context.options, e.name)) continue;
    if (!probe_obstacle(e.name, context.model(), context.all.size(), context.groups).empty()) continue;
    probes->probes_.push_back(e.make(context));
    probes->probes_.back()->restore(state);
  }
  return probes->probes_.empty() ? nullptr : std::move(probes);
}

void Probes::gradient_ready(int layer) {
  for (const auto& probe : probes_) probe->gradient_ready(layer);
}

void Probes::batch_done(const ProbedUpdate& update) {
  update_ = update;
  for (const auto& probe : probes_) probe->batch_done(update);
}

void Probes::gradient_summed(std::span<const float> exchanged, std::span<const float> gradient) {
  for (const auto& probe : probes_) probe->gradient_summed(exchanged, gradient);
}

std::vector<Measurement> Probes::measure() {
  std::vector<Measurement> rows;
  for (const auto& probe : probes_) {
    for (Measurement& row : probe->measure(update_)) rows.push_back(std::move(row));
  }
  return rows;
}

std::map<std::string, std::string> Probes::state() const {
  std::map<std::string, std::string> all;
  for (const auto& probe : probes_) probe->store(all);
  return all;
}

}  // namespace syncbn
