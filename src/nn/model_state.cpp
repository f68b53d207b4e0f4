#include "nn/model_state.hpp"

#include <algorithm>
#include <cmath>

#include "core/round_up.hpp"
#include "nn/normalization/weight_norm.hpp"
#include "ops/device.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {

ops::Conv2dGeometry conv2d_geometry(const Model& model, int layer) {
  const LayerSpec& spec = model.layers[layer];
  const Shape& in = model.layers[spec.input].output;
  const Shape& out = spec.output;
  return {in.c(),        in.h(),        in.w(),      out.c(),      out.h(),  out.w(),
          spec.kernel_h, spec.kernel_w, spec.stride, spec.padding, spec.bias};
}

ModelState::ModelState(Model model, const NormSettings& norm, const ops::Backend& backend)
    : backend_(backend), model_(std::move(model)), norm_(norm) {
  const std::size_t layers = model_.layers.size();
  parameters_.resize(model_.parameters.size());
  exchanged_.resize(layers);
  weight_of_.assign(layers, -1);
  gain_of_.assign(layers, -1);
  bias_of_.assign(layers, -1);
  for (std::size_t i = 0; i < model_.parameters.size(); ++i) {
    const ParameterSpec& p = model_.parameters[i];
    const bool is_weight = p.kind == ParameterKind::weight || p.kind == ParameterKind::norm_weight;
    auto& index = is_weight ? weight_of_ : p.kind == ParameterKind::weight_gain ? gain_of_ : bias_of_;
    index[p.layer] = static_cast<int>(i);
  }
  const auto shares = [&](std::size_t l) { return shares_statistics(model_.layers[l].type); };
  for (std::size_t l = 0; l < layers; ++l) {
    const std::int64_t begin = flat_size_;
    if (shares(l)) {
      if (!norm_.whole_world) place_norm(static_cast<int>(l));
    } else {
      place_parameter(weight_of_[l]);
      place_parameter(bias_of_[l]);
    }
    exchanged_[l] = {begin, flat_size_ - begin};
  }
  exchanged_size_ = flat_size_;
  for (std::size_t l = 0; l < layers; ++l) {
    if (shares(l) && norm_.whole_world) place_norm(static_cast<int>(l));
  }
  known_size_ = flat_size_;
  for (std::size_t l = 0; l < layers; ++l) place_parameter(gain_of_[l]);
  if (std::any_of(gain_of_.begin(), gain_of_.end(), [](int p) { return p >= 0; })) {
    normalized_ = FlatBuffer(backend, exchanged_size_);
  }
  values_ = FlatBuffer(backend, flat_size_);
  packed_.resize(layers);
  cast_.resize(layers);
  const DataType type = backend.activation_type();
  for (std::size_t l = 0; l < layers; ++l) {
    if (model_.layers[l].type == LayerType::linear && type != DataType::f32) {
      const auto count = static_cast<std::size_t>(parameter(weight_of_[l]).count);
      cast_[l] = backend.allocate(count * size_of(type));
    }
    if (model_.layers[l].type != LayerType::conv2d) continue;
    packed_[l] = backend.conv2d_weights(conv2d_geometry(model_, static_cast<int>(l)));
  }
}

FlatRange ModelState::place(std::int64_t count) {
  const FlatRange range{flat_size_, count};
  flat_size_ += round_up<std::int64_t>(count, 16);
  return range;
}

void ModelState::place_parameter(int parameter) {
  if (parameter < 0) return;
  const auto i = static_cast<std::size_t>(parameter);
  parameters_[i] = place(model_.parameters[i].count());
}

void ModelState::place_norm(int layer) {
  place_parameter(weight_of(layer));
  place_parameter(bias_of(layer));
  if (!norm_.options.track_running_stats) return;
  const LayerSpec& spec = model_.layers[layer];
  const std::int64_t c = spec.output.c();
  NormState state;
  state.layer = layer;
  state.name = spec.name;
  state.mean = place(c);
  state.var_dims = {c};
  if (spec.type == LayerType::whitening) {
    state.var_name = "running_cov";
    state.var_dims = {spec.groups, c / spec.groups, c / spec.groups};
  }
  state.var = place(spec.type == LayerType::whitening ? c * state.var_dims.back() : c);
  state.kept = place(1);
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
    if (p.kind == ParameterKind::weight_gain) {
      const int v = weight_of(p.layer);  // its weights precede it
      start_gain(values(parameter(v)), model_.parameters[v].init_scale, out);
      continue;
    }
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
    if (gain_of_[p.layer] < 0) std *= p.init_scale;
    Random random(seed, Purpose::init, hash_name(p.name));
    for (float& v : out) v = static_cast<float>(std * random.normal());
  }
  for (NormState& s : norm_states_) {
    // Start with unit variances: ones, or the diagonal of a covariance matrix.
    const std::span<float> var = values(s.var);
    const auto width = static_cast<std::size_t>(s.var_dims.size() == 3 ? s.var_dims.back() : 1);
    for (std::size_t i = 0; i < var.size(); ++i) var[i] = i % (width * width) % (width + 1) == 0 ? 1.0f : 0.0f;
    s.batches_tracked = 0;
  }
}

void ModelState::send() {
  values_.send();
  pack(0, 1);
  if (const ops::Device* device = backend_.device()) device->finish();  // before any worker's queue goes on
}

std::span<float> ModelState::normalized(int layer, std::span<float> all) {
  const FlatRange r = parameter(weight_of(layer));
  return all.subspan(r.offset, r.count);
}

std::span<const float> ModelState::weights(int layer) {
  return gain_of_[layer] < 0 ? kernels(parameter(weight_of(layer))) : normalized(layer, normalized_.kernels());
}

const void* ModelState::linear_weights(int layer) {
  const ops::Memory& cast = cast_[layer];
  return cast.data() ? static_cast<const void*>(cast.data()) : weights(layer).data();
}

void ModelState::cast(int layer) {
  const std::span<const float> from = weights(layer);
  const Shape row{1, static_cast<std::int64_t>(from.size())};
  const Tensor to{cast_[layer].data(), row, backend_.activation_type()};
  backend_.elementwise().reorder({const_cast<float*>(from.data()), row}, to, {0, 1}, false);
}

void ModelState::pack(int part, int parts) {
  const auto each_of_part = [&](const auto& work) {
    int number = 0;
    for (std::size_t l = 0; l < packed_.size(); ++l) {
      if ((packed_[l] || cast_[l].data() || gain_of_[l] >= 0) && number++ % parts == part) work(l);
    }
  };
  if (!normalized_.host().empty()) {  // on the CPU
    fetch();
    each_of_part([&](std::size_t l) {
      const int gain = gain_of_[l], layer = static_cast<int>(l);
      if (gain < 0) return;
      weight_norm(values(parameter(gain)), values(parameter(weight_of(layer))), normalized(layer, normalized_.host()));
    });
    normalized_.send();
  }
  each_of_part([&](std::size_t l) {
    if (packed_[l]) packed_[l]->pack(weights(static_cast<int>(l)).data());
    if (cast_[l].data()) cast(static_cast<int>(l));
  });
}

void ModelState::finish_gradient(std::span<const float> summed, std::span<const float> own, std::span<float> gradient,
                                 int part, int parts) {
  const auto copy_share = [&](std::span<const float> from, const FlatRange& r) {
    const std::int64_t begin = r.offset + r.count * part / parts, end = r.offset + r.count * (part + 1) / parts;
    copy(from.data() + begin, gradient.data() + begin, end - begin);
  };
  copy_share(own, {exchanged_size_, known_size_ - exchanged_size_});
  if (backend_.device()) copy_share(summed, {0, exchanged_size_});  // convolutions keep the canonical order
  int number = 0;
  for (std::size_t l = 0; l < packed_.size(); ++l) {
    const FlatRange& all = exchanged_[l];
    if (!packed_[l] && gain_of_[l] < 0) {
      if (!backend_.device()) copy_share(summed, all);
      continue;
    }
    if (number++ % parts != part) continue;
    if (!backend_.device()) {
      const FlatRange weight = parameter(weight_of(static_cast<int>(l)));
      // The bias, if any, follows the weights.
      const std::int64_t as_it_is = packed_[l] ? weight.offset + weight.count : all.offset;
      if (packed_[l]) packed_[l]->unpack_gradient(summed.data() + weight.offset, gradient.data() + weight.offset);
      std::copy(summed.begin() + as_it_is, summed.begin() + all.offset + all.count, gradient.begin() + as_it_is);
    }
    if (gain_of_[l] >= 0) finish_gain(static_cast<int>(l), gradient);
  }
}

void ModelState::finish_gain(int layer, std::span<float> gradient) {
  const FlatRange gain = parameter(gain_of_[layer]), weight = parameter(weight_of(layer));
  const std::span<float> d_gain = gradient.subspan(gain.offset, gain.count);
  const std::span<float> d_weight = gradient.subspan(weight.offset, weight.count);
  if (!backend_.device()) return weight_norm_gradient(values(gain), values(weight), d_weight, d_gain);
  // values() are up to date: the last pack() fetched them.
  std::vector<float> weight_here(d_weight.size()), gain_here(d_gain.size());
  backend_.download(d_weight.data(), weight_here.data(), d_weight.size_bytes());
  weight_norm_gradient(values(gain), values(weight), weight_here, gain_here);
  backend_.upload(weight_here.data(), d_weight.data(), d_weight.size_bytes());
  backend_.upload(gain_here.data(), d_gain.data(), d_gain.size_bytes());
}

void ModelState::copy(const float* from, float* to, std::int64_t count) const {
  if (const ops::Device* device = backend_.device())
    return device->copy(from, to, static_cast<std::size_t>(count) * sizeof(float));
  std::copy_n(from, count, to);
}

void ModelState::update_statistics(std::span<const float> gradient) {
  std::vector<ops::Device::Running> all;
  for (NormState& s : norm_states_) {
    for (const FlatRange& r : {s.mean, s.var})
      all.push_back({gradient.data() + s.kept.offset, gradient.data() + r.offset, kernels(r).data(), r.count});
  }
  if (const ops::Device* device = backend_.device()) return device->update_running(all);
  for (const auto& [kept, contribution, running, count] : all) {
    for (std::int64_t c = 0; c < count; ++c) running[c] = *kept * running[c] + contribution[c];
  }
}

void ModelState::count_batches(std::int64_t batches) {
  for (NormState& s : norm_states_) s.batches_tracked += batches;
}

}  // namespace syncbn
