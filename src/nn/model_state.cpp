#include "nn/model_state.hpp"

#include <algorithm>
#include <cmath>

#include "syncbn/core/random.hpp"

namespace syncbn {

ops::Conv2dGeometry conv2d_geometry(const Model& model, int layer, bool bias) {
  const LayerSpec& spec = model.layers[static_cast<std::size_t>(layer)];
  const Shape& in = model.layers[static_cast<std::size_t>(spec.input)].output;
  const Shape& out = spec.output;
  return {in.c(),        in.h(),        in.w(),      out.c(),      out.h(), out.w(),
          spec.kernel_h, spec.kernel_w, spec.stride, spec.padding, bias};
}

ModelState::ModelState(Model model, const NormSettings& norm, const ops::Backend& backend)
    : model_(std::move(model)), norm_(norm) {
  const std::size_t layers = model_.layers.size();
  parameters_.resize(model_.parameters.size());
  exchanged_.resize(layers);
  weight_of_.assign(layers, -1);
  bias_of_.assign(layers, -1);
  for (std::size_t i = 0; i < model_.parameters.size(); ++i) {
    const ParameterSpec& p = model_.parameters[i];
    const bool is_weight = p.kind == ParameterKind::weight || p.kind == ParameterKind::norm_weight;
    (is_weight ? weight_of_ : bias_of_)[static_cast<std::size_t>(p.layer)] = static_cast<int>(i);
  }
  const auto is_norm = [&](std::size_t l) { return shares_statistics(model_.layers[l].type); };
  for (std::size_t l = 0; l < layers; ++l) {
    const std::int64_t begin = flat_size_;
    if (is_norm(l)) {
      if (!norm_.whole_world) place_norm(static_cast<int>(l));
    } else {
      for (const int p : {weight_of_[l], bias_of_[l]}) {
        if (p >= 0) {
          parameters_[static_cast<std::size_t>(p)] = place(model_.parameters[static_cast<std::size_t>(p)].count());
        }
      }
    }
    exchanged_[l] = {begin, flat_size_ - begin};
  }
  exchanged_size_ = flat_size_;
  for (std::size_t l = 0; l < layers; ++l) {
    if (is_norm(l) && norm_.whole_world) place_norm(static_cast<int>(l));
  }
  values_ = Buffer(static_cast<std::size_t>(flat_size_) * sizeof(float));
  packed_.resize(layers);
  for (std::size_t l = 0; l < layers; ++l) {
    if (model_.layers[l].type != LayerType::conv2d) continue;
    packed_[l] = backend.conv2d_weights(conv2d_geometry(model_, static_cast<int>(l), bias_of_[l] >= 0));
  }
}

FlatRange ModelState::place(std::int64_t count) {
  const FlatRange range{flat_size_, count};
  flat_size_ += (count + 15) / 16 * 16;
  return range;
}

void ModelState::place_norm(int layer) {
  for (const int p : {weight_of(layer), bias_of(layer)}) {
    if (p >= 0) {
      parameters_[static_cast<std::size_t>(p)] = place(model_.parameters[static_cast<std::size_t>(p)].count());
    }
  }
  if (!norm_.options.track_running_stats) return;
  const LayerSpec& spec = model_.layers[static_cast<std::size_t>(layer)];
  const std::int64_t c = spec.output.c();
  NormState state{layer, spec.name, place(c), place(c), place(1), 0};
  norm_states_.push_back(std::move(state));
}

NormState* ModelState::norm_state(int layer) {
  for (NormState& s : norm_states_) {
    if (s.layer == layer) return &s;
  }
  return nullptr;
}

void ModelState::initialize(std::uint64_t seed) {
  std::fill(values().begin(), values().end(), 0.0f);
  for (std::size_t i = 0; i < model_.parameters.size(); ++i) {
    const ParameterSpec& p = model_.parameters[i];
    const std::span<float> out = values(parameters_[i]);
    if (p.kind != ParameterKind::weight) {
      std::fill(out.begin(), out.end(), static_cast<float>(p.init_value));
      continue;
    }
    double std = p.init_std;
    const auto fan_in = static_cast<double>(std::max<std::int64_t>(1, p.fan_in));
    const auto fan_out = static_cast<double>(std::max<std::int64_t>(1, p.fan_out));
    // He et al. 2015 (arXiv 1502.01852), fan-out form as torchvision's residual networks; Glorot & Bengio 2010.
    if (p.init == Init::he) std = std::sqrt(2.0 / (p.dims.size() == 4 ? fan_out : fan_in));
    if (p.init == Init::glorot) std = std::sqrt(2.0 / (fan_in + fan_out));
    Random random(seed, Purpose::init, hash_name(p.name));
    for (float& v : out) v = static_cast<float>(std * random.normal());
  }
  for (NormState& s : norm_states_) {
    std::fill(values(s.var).begin(), values(s.var).end(), 1.0f);
    s.batches_tracked = 0;
  }
}

void ModelState::pack(int part, int parts) {
  int convolution = 0;
  for (std::size_t l = 0; l < packed_.size(); ++l) {
    if (!packed_[l] || convolution++ % parts != part) continue;
    packed_[l]->pack(values(parameter(weight_of(static_cast<int>(l)))).data());
  }
}

void ModelState::update_statistics(std::span<const float> gradient, std::int64_t batches) {
  for (NormState& s : norm_states_) {
    const float kept = gradient[static_cast<std::size_t>(s.kept.offset)];
    for (const FlatRange& r : {s.mean, s.var}) {
      const std::span<float> running = values(r);
      const std::span<const float> contribution = gradient.subspan(r.offset, r.count);
      for (std::size_t c = 0; c < running.size(); ++c) running[c] = kept * running[c] + contribution[c];
    }
    s.batches_tracked += batches;
  }
}

}  // namespace syncbn
