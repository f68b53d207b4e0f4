#include "nn/network_plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

using Action = NetworkPlan::Action;
using Step = NetworkPlan::Step;
using Stretch = NetworkPlan::Stretch;

// Memory that a stretch touches per chunk; it should fit the second-level cache with room for weights.
constexpr std::int64_t kChunkBytes = 256 * 1024;

/// Per layer: whether its output's gradient is needed, i.e. it or an ancestor has parameters.
std::vector<bool> find_trained(const ModelState& state) {
  const std::vector<LayerSpec>& specs = state.model().layers;
  std::vector<bool> trained;
  const auto needs = [&](int l) { return l >= 0 && trained[l]; };
  for (int l = 0; l < static_cast<int>(specs.size()); ++l) {
    const LayerSpec& spec = specs[l];
    const bool has_parameters = state.weight_of(l) >= 0 || state.bias_of(l) >= 0;
    trained.push_back(has_parameters || needs(spec.input) || needs(spec.residual));
  }
  return trained;
}

std::vector<Stretch> plan_forward(const std::vector<LayerSpec>& specs) {
  std::vector<Stretch> stretches(1);
  std::vector<int> stretch_of(specs.size(), 0);  // the stretch in which a layer's output is written
  for (int l = 1; l < static_cast<int>(specs.size()); ++l) {
    const LayerSpec& spec = specs[l];
    if (shares_statistics(spec.type)) {
      // Sums are computed right after the layer that writes x, while x is in cache.
      Stretch& producer = stretches[stretch_of[spec.input]];
      const auto behind = std::find_if(producer.steps.begin(), producer.steps.end(), [&](const Step& s) {
        return s.layer == spec.input && s.action == Action::forward;
      });
      producer.steps.insert(behind == producer.steps.end() ? producer.steps.begin() : behind + 1,
                            {Action::accumulate, l});
      stretches.back().norm = l;
      stretches.emplace_back();
    }
    stretches.back().steps.push_back({Action::forward, l});
    stretch_of[l] = static_cast<int>(stretches.size()) - 1;
  }
  return stretches;
}

std::vector<Stretch> plan_backward(const ModelState& state, const std::vector<bool>& trained) {
  const std::vector<LayerSpec>& specs = state.model().layers;
  const bool normalized = std::any_of(specs.begin(), specs.end(), [](const LayerSpec& s) { return is_norm(s.type); });
  std::vector<Stretch> stretches(1);
  for (int l = static_cast<int>(specs.size()) - 1; l > 0; --l) {
    if (!trained[l]) continue;
    const LayerType type = specs[l].type;
    const bool shared = shares_statistics(type);
    if (shared) {
      stretches.back().steps.push_back({Action::accumulate_backward, l});
      stretches.back().norm = l;
    }
    // Also split at norms that send no message, so gradients finish, and memory is freed, earlier.
    if (is_norm(type)) stretches.emplace_back();
    stretches.back().steps.push_back({Action::backward, l});
    if (shared || (state.weight_of(l) < 0 && state.bias_of(l) < 0)) continue;
    stretches.back().parameters.push_back(l);
    if (!normalized) stretches.emplace_back();
  }
  return stretches;
}

/// The ranges of the flat gradient that layers add to instead of assigning.
std::vector<FlatRange> find_added_to(const ModelState& state) {
  const std::vector<LayerSpec>& specs = state.model().layers;
  std::vector<FlatRange> assigned;
  for (int l = 0; l < static_cast<int>(specs.size()); ++l) {
    const LayerType type = specs[l].type;
    if (type != LayerType::conv2d && type != LayerType::linear) continue;
    for (const int p : {state.weight_of(l), state.bias_of(l)})
      if (p >= 0) assigned.push_back(state.parameter(p));
  }
  std::sort(assigned.begin(), assigned.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
  std::vector<FlatRange> added_to;
  std::int64_t begin = 0;
  for (const FlatRange& r : assigned) {
    added_to.push_back({begin, r.offset - begin});
    begin = r.offset + r.count;
  }
  added_to.push_back({begin, state.flat_size() - begin});
  return added_to;
}

std::vector<Tensor> plan_outputs(const std::vector<LayerSpec>& specs, const ops::Backend& backend,
                                 std::int64_t max_samples) {
  std::vector<Tensor> outputs(specs.size());
  for (std::size_t l = 0; l < specs.size(); ++l) {
    Tensor& t = outputs[l];
    constexpr double kMost = 1e15;  // more values fit no memory; checked before they overflow
    if (static_cast<double>(max_samples) * static_cast<double>(specs[l].output.elements()) > kMost)
      throw Error(fmt::format("layer '{}': {} samples of {} at a time are too many: use a smaller batch_per_worker",
                              specs[l].name, max_samples, specs[l].output.str()),
                  ExitCode::usage);
    t.shape = specs[l].output.with_n(max_samples);
    t.type = backend.activation_type();
    switch (specs[l].type) {
      case LayerType::input:  // on a device: convolutions read it twice, so convert it once
        t.layout = backend.device() ? backend.preferred_layout(t.shape.c()) : Layout::channels_first;
        break;
      case LayerType::linear:
      case LayerType::flatten:
      case LayerType::global_avg_pool:
        t.layout = Layout::channels_first;
        break;
      case LayerType::conv2d:
        t.layout = backend.preferred_layout(t.shape.c());
        break;
      default:
        t.layout = outputs[specs[l].input].layout;
    }
  }
  return outputs;
}

ArenaPlan plan_memory(const NetworkPlan& plan, const std::vector<LayerSpec>& specs) {
  const int count = static_cast<int>(specs.size());
  // Activations are kept through forward and backward. A gradient is kept from the stretch in which its first consumer
  // writes it to the last stretch that reads it; gradients that are not needed take no memory.
  const int stretches = static_cast<int>(plan.backward.size());
  std::vector<Lifetime> blocks(specs.size() * 2);
  for (std::size_t l = 0; l < specs.size(); ++l) {
    const auto bytes = static_cast<std::int64_t>(plan.outputs[l].bytes());
    blocks[l] = {bytes, -1, stretches};
    blocks[specs.size() + l] = {plan.needs_gradient[l] ? bytes : 0, stretches, -1};
  }
  blocks[specs.size() + specs.size() - 1].first = -1;  // the caller writes the logits' gradient
  for (int k = 0; k < stretches; ++k) {
    for (const Step& step : plan.backward[k].steps) {
      const LayerSpec& spec = specs[step.layer];
      Lifetime& own = blocks[count + step.layer];
      own.last = std::max(own.last, k);
      for (const int input : {spec.input, spec.residual}) {
        if (input < 0) continue;
        Lifetime& written = blocks[count + input];
        written.first = std::min(written.first, k);
        written.last = std::max(written.last, k);
      }
    }
  }
  return plan_arena(blocks);
}

/// Sets the number of samples per chunk; `whole`: all samples at once.
void set_chunks(std::vector<Stretch>& stretches, const std::vector<Tensor>& outputs, bool whole) {
  for (Stretch& stretch : stretches) {
    std::int64_t largest = 1;
    for (const Step& step : stretch.steps) {
      const Tensor& t = outputs[step.layer];
      largest = std::max(largest, t.sample_stride() * static_cast<std::int64_t>(size_of(t.type)));
    }
    stretch.chunk = whole ? std::max<std::int64_t>(1, outputs.front().shape.n())
                          : std::max<std::int64_t>(1, kChunkBytes / (2 * largest));
  }
}

}  // namespace

void NetworkPlan::place(std::byte* memory) {
  for (std::size_t l = 0; l < outputs.size(); ++l) {
    outputs[l].data = memory + arena.offsets[l];
    gradients[l].data = needs_gradient[l] ? memory + arena.offsets[outputs.size() + l] : nullptr;
  }
}

NetworkPlan plan_network(const ModelState& state, const ops::Backend& backend, std::int64_t max_samples) {
  const std::vector<LayerSpec>& specs = state.model().layers;
  NetworkPlan plan;
  for (std::size_t l = 0; l < specs.size(); ++l)
    if (shares_statistics(specs[l].type)) plan.norms.push_back(static_cast<int>(l));
  plan.needs_gradient = find_trained(state);
  plan.forward = plan_forward(specs);
  plan.backward = plan_backward(state, plan.needs_gradient);
  plan.added_to = find_added_to(state);
  plan.outputs = plan.gradients = plan_outputs(specs, backend, max_samples);
  plan.arena = plan_memory(plan, specs);
  for (auto* stretches : {&plan.forward, &plan.backward})
    set_chunks(*stretches, plan.outputs, backend.device() != nullptr);
  return plan;
}

}  // namespace syncbn
