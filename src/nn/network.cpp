#include "nn/network.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/round_up.hpp"
#include "nn/arena.hpp"
#include "nn/host_sums.hpp"

namespace syncbn {

namespace {

// What a sweep touches per chunk should stay in the second-level cache with room for weights.
constexpr std::int64_t kChunkBytes = 256 * 1024;
constexpr std::size_t kImageGrain = 256;  // of places in a device's memory

/// As the images come that are to be brought into the input.
Tensor given(Tensor input) {
  input.type = DataType::f32;
  input.layout = Layout::channels_first;
  return input;
}

}  // namespace

Network::Network(ModelState& state, const ops::Backend& backend, Communicator group, int groups,
                 std::int64_t max_samples, std::span<float> gradient, std::unique_ptr<GroupSums> sums)
    : state_(state), backend_(backend.for_worker()), sums_(std::move(sums)), gradient_(gradient) {
  if (backend_->device() && !sums_)
    sums_ = std::make_unique<HostSums>(*backend_, group, longest_message(state.model()));
  for (const LayerSpec& spec : state.model().layers)
    places_.push_back({spec.name + " forward", spec.name + " backward", spec.name + " message"});
  find_trained();
  plan_forward();
  plan_backward();
  plan_gradient();
  plan_memory(max_samples);
  make_layers({state, *backend_, gradient, std::move(group), sums_.get(), groups, max_samples});
  set_chunks(forward_);
  set_chunks(backward_);
}

Network::~Network() = default;

void Network::find_trained() {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  const auto needs = [&](int l) { return l >= 0 && needs_gradient_[static_cast<std::size_t>(l)]; };
  for (int l = 0; l < static_cast<int>(specs.size()); ++l) {
    const LayerSpec& spec = specs[static_cast<std::size_t>(l)];
    const bool has_parameters = state_.weight_of(l) >= 0 || state_.bias_of(l) >= 0;
    needs_gradient_.push_back(has_parameters || needs(spec.input) || needs(spec.residual));
  }
}

void Network::plan_forward() {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  std::vector<int> sweep_of(specs.size(), 0);  // in which sweep a layer's output is written
  forward_.emplace_back();
  for (int l = 1; l < static_cast<int>(specs.size()); ++l) {
    const LayerSpec& spec = specs[static_cast<std::size_t>(l)];
    if (shares_statistics(spec.type)) {
      norms_.push_back(l);
      // The sums are taken right behind the layer that writes x, while it is in cache.
      Sweep& producer = forward_[static_cast<std::size_t>(sweep_of[static_cast<std::size_t>(spec.input)])];
      const auto behind = std::find_if(producer.steps.begin(), producer.steps.end(), [&](const Step& s) {
        return s.layer == spec.input && s.action == Action::forward;
      });
      producer.steps.insert(behind == producer.steps.end() ? producer.steps.begin() : behind + 1,
                            {Action::accumulate, l});
      forward_.back().norm = l;
      forward_.emplace_back();
    }
    forward_.back().steps.push_back({Action::forward, l});
    sweep_of[static_cast<std::size_t>(l)] = static_cast<int>(forward_.size()) - 1;
  }
}

void Network::plan_backward() {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  const bool normalized = std::any_of(specs.begin(), specs.end(), [](const LayerSpec& s) { return is_norm(s.type); });
  backward_.emplace_back();
  for (int l = static_cast<int>(specs.size()) - 1; l > 0; --l) {
    if (!needs_gradient_[static_cast<std::size_t>(l)]) continue;
    const LayerType type = specs[static_cast<std::size_t>(l)].type;
    const bool shared = shares_statistics(type);
    if (shared) {
      backward_.back().steps.push_back({Action::accumulate_backward, l});
      backward_.back().norm = l;
    }
    // Without messages, too, so that gradients are finished one by one and memory is soon free again.
    if (is_norm(type)) backward_.emplace_back();
    backward_.back().steps.push_back({Action::backward, l});
    if (shared || (state_.weight_of(l) < 0 && state_.bias_of(l) < 0)) continue;
    backward_.back().parameters.push_back(l);
    if (!normalized) backward_.emplace_back();
  }
}

void Network::plan_gradient() {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  std::vector<FlatRange> assigned;
  for (int l = 0; l < static_cast<int>(specs.size()); ++l) {
    const LayerType type = specs[static_cast<std::size_t>(l)].type;
    if (type != LayerType::conv2d && type != LayerType::linear) continue;
    for (const int p : {state_.weight_of(l), state_.bias_of(l)})
      if (p >= 0) assigned.push_back(state_.parameter(p));
  }
  std::sort(assigned.begin(), assigned.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
  std::int64_t begin = 0;
  for (const FlatRange& r : assigned) {
    added_to_.push_back({begin, r.offset - begin});
    begin = r.offset + r.count;
  }
  added_to_.push_back({begin, state_.flat_size() - begin});
}

void Network::plan_memory(std::int64_t max_samples) {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  const int count = static_cast<int>(specs.size());
  tensors_.resize(specs.size());
  for (std::size_t l = 0; l < specs.size(); ++l) {
    Tensor& t = tensors_[l];
    constexpr double kMost = 1e15;  // values; so many fit in no memory, more would overflow
    if (static_cast<double>(max_samples) * static_cast<double>(specs[l].output.elements()) > kMost)
      throw Error(fmt::format("layer '{}': {} samples of {} at a time are too many: use a smaller batch_per_worker",
                              specs[l].name, max_samples, specs[l].output.str()),
                  ExitCode::usage);
    t.shape = specs[l].output.with_n(max_samples);
    t.type = backend_->activation_type();
    switch (specs[l].type) {
      case LayerType::input:  // on a device brought once into the layout that convolutions read twice
        t.layout = backend_->device() ? backend_->preferred_layout(t.shape.c()) : Layout::channels_first;
        break;
      case LayerType::linear:
      case LayerType::flatten:
      case LayerType::global_avg_pool:
        t.layout = Layout::channels_first;
        break;
      case LayerType::conv2d:
        t.layout = backend_->preferred_layout(t.shape.c());
        break;
      default:
        t.layout = tensors_[static_cast<std::size_t>(specs[l].input)].layout;
    }
  }
  gradients_ = tensors_;

  // Activations live through forward and backward. A gradient lives from the sweep in which its first consumer writes
  // it to the last sweep that reads it; those that nobody needs take no memory.
  const int sweeps = static_cast<int>(backward_.size());
  std::vector<Lifetime> blocks(specs.size() * 2);
  for (std::size_t l = 0; l < specs.size(); ++l) {
    const auto bytes = static_cast<std::int64_t>(tensors_[l].bytes());
    blocks[l] = {bytes, -1, sweeps};
    blocks[specs.size() + l] = {needs_gradient_[l] ? bytes : 0, sweeps, -1};
  }
  blocks[specs.size() + specs.size() - 1].first = -1;  // the caller writes the logits' gradient
  for (int k = 0; k < sweeps; ++k) {
    for (const Step& step : backward_[static_cast<std::size_t>(k)].steps) {
      const LayerSpec& spec = specs[static_cast<std::size_t>(step.layer)];
      Lifetime& own = blocks[static_cast<std::size_t>(count + step.layer)];
      own.last = std::max(own.last, k);
      for (const int input : {spec.input, spec.residual}) {
        if (input < 0) continue;
        Lifetime& written = blocks[static_cast<std::size_t>(count + input)];
        written.first = std::min(written.first, k);
        written.last = std::max(written.last, k);
      }
    }
  }
  const ArenaPlan plan = plan_arena(blocks);
  memory_ = backend_->allocate(static_cast<std::size_t>(plan.bytes));
  if (const ops::Device* device = backend_->device()) {
    const Shape& input = tensors_.front().shape;
    const auto bytes =
        round_up<std::size_t>(static_cast<std::size_t>(input.n() * input.c() * input.spatial()), kImageGrain);
    images_ = backend_->allocate(std::max(given(tensors_.front()).bytes(), image_rooms_.size() * bytes));
    for (ImageRoom& room : image_rooms_) {
      room = {static_cast<std::size_t>(&room - image_rooms_.data()) * bytes, device->make_mark()};
      device->set(*room.read);  // behind what makes the memory
    }
  }
  for (std::size_t l = 0; l < specs.size(); ++l) {
    tensors_[l].data = memory_.data() + plan.offsets[l];
    gradients_[l].data = needs_gradient_[l] ? memory_.data() + plan.offsets[specs.size() + l] : nullptr;
  }
}

void Network::make_layers(const LayerContext& context) {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  layers_.resize(specs.size());
  std::vector<bool> written(specs.size(), false);
  // In the order of the backward pass: whoever writes a gradient first assigns, later ones add.
  for (std::size_t l = specs.size() - 1; l > 0; --l) {
    const LayerSpec& spec = specs[l];
    LayerTensors t;
    t.y = tensors_[l];
    t.dy = gradients_[l];
    const auto connect = [&](int input, Tensor& x, Tensor& dx, bool& accumulate) {
      if (input < 0) return;
      const auto i = static_cast<std::size_t>(input);
      x = tensors_[i];
      dx = gradients_[i];
      accumulate = written[i];
      written[i] = true;
    };
    connect(spec.input, t.x, t.dx, t.accumulate_dx);
    connect(spec.residual, t.r, t.dr, t.accumulate_dr);
    const int index = static_cast<int>(l);
    at(spec.name, [&] {
      layers_[l] = shares_statistics(spec.type) ? make_norm_layer(context, index, t) : make_layer(context, index, t);
    });
  }
}

void Network::set_chunks(std::vector<Sweep>& sweeps) {
  for (Sweep& sweep : sweeps) {
    std::int64_t largest = 1;
    for (const Step& step : sweep.steps) {
      const Tensor& t = tensors_[static_cast<std::size_t>(step.layer)];
      largest = std::max(largest, t.sample_stride() * static_cast<std::int64_t>(size_of(t.type)));
    }
    sweep.chunk = backend_->device() ? std::max<std::int64_t>(1, tensors_.front().shape.n())
                                     : std::max<std::int64_t>(1, kChunkBytes / (2 * largest));
  }
}

void Network::set_pixel_values(std::span<const float> values) {
  if (static_cast<std::int64_t>(values.size()) != 256 * tensors_.front().shape.c())
    throw Error(
        fmt::format("{} pixel values for {} channels; 256 each are wanted", values.size(), tensors_.front().shape.c()));
  pixel_values_ = backend_->allocate(values.size_bytes());
  backend_->upload(values.data(), pixel_values_.data(), values.size_bytes());
}

void Network::set_images(const std::uint8_t* images, std::int64_t n) {
  const Tensor& input = tensors_.front();
  if (pixel_values_.size() == 0) throw Error("images come as bytes before set_pixel_values()");
  const ops::Device* device = backend_->device();
  const ImageRoom& room = image_rooms_[next_images_++ % image_rooms_.size()];
  if (device) {
    std::uint8_t* const there = images_.as<std::uint8_t>() + room.offset;
    const auto bytes = static_cast<std::size_t>(n * input.shape.c() * input.shape.spatial());
    device->upload_ahead(images, there, bytes, *room.read);
    images = there;
  }
  backend_->elementwise().look_up(images, pixel_values_.as<float>(), input, {0, n});
  if (device) device->set(*room.read);
}

void Network::set_images(const float* images, std::int64_t n) {
  const Tensor& input = tensors_.front();
  Tensor from = given(input);
  if (images_.data()) from.data = images_.data();
  backend_->upload(images, from.data, static_cast<std::size_t>(n * input.sample_stride()) * sizeof(float));
  if (const ops::Device* device = backend_->device()) {
    backend_->elementwise().reorder(from, input, {0, n}, false);
    for (const ImageRoom& room : image_rooms_) device->set(*room.read);
  }
}

void Network::start_loss(std::span<const int> labels, double smoothing, double scale) {
  const Tensor gradient = scale != 0 ? gradients_.back() : Tensor{};
  if (const ops::Device* device = backend_->device()) {
    at("loss", [&] { device->start_loss(tensors_.back(), labels, smoothing, scale, gradient); });
  } else {
    loss_ = softmax_cross_entropy(tensors_.back(), labels, smoothing, scale, gradient);
  }
}

LossResult Network::finish_loss() {
  if (const ops::Device* device = backend_->device()) {
    at("loss", [&] {
      sums_->settle();
      const auto [sum, correct] = device->finish_loss();
      loss_ = {sum, correct};
    });
  }
  return loss_;
}

void Network::begin_update() {
  if (const ops::Device* device = backend_->device()) {
    device->clear(gradient_.data(), static_cast<std::int64_t>(gradient_.size()));
  } else {
    for (const FlatRange& r : added_to_) std::fill_n(gradient_.begin() + r.offset, r.count, 0.0f);
  }
  accumulate_ = backend_->device() != nullptr;
  for (const int l : norms_) norm(l).begin_update();
}

void Network::forward(const Pass& pass) {
  for (const int l : norms_) norm(l).begin(pass);
  for (const Sweep& sweep : forward_) {
    run(sweep, pass);
    if (sweep.norm >= 0 && norm(sweep.norm).uses_batch(pass))
      at(places(sweep.norm).message, [&] { norm(sweep.norm).exchange(pass); });
  }
}

void Network::backward(const Pass& given, const std::function<void(int)>& finished) {
  Pass pass = given;
  pass.accumulate = accumulate_;
  accumulate_ = true;
  for (std::size_t l = 1; l < layers_.size(); ++l) layers_[l]->begin_backward(pass);
  for (const Sweep& sweep : backward_) {
    run(sweep, pass);
    if (sweep.norm >= 0) at(places(sweep.norm).message, [&] { norm(sweep.norm).start_exchange_backward(pass); });
    for (const int l : sweep.parameters) {
      at(places(l).backward, [&] { layers_[static_cast<std::size_t>(l)]->backward_parameters(pass); });
      finished(l);
    }
    if (sweep.norm >= 0) {
      at(places(sweep.norm).message, [&] { norm(sweep.norm).finish_exchange_backward(pass); });
      at(places(sweep.norm).backward, [&] { norm(sweep.norm).backward_parameters(pass); });
      finished(sweep.norm);
    }
  }
}

bool Network::repeats() const {
  return backend_->device() &&
         std::all_of(layers_.begin() + 1, layers_.end(), [](const auto& layer) { return layer->repeats(); });
}

void Network::begin_population() {
  for (const int l : norms_) norm(l).population().begin();
}

void Network::finish_population(const Communicator& all, std::int64_t step) {
  std::vector<double> sums;
  for (const int l : norms_) {
    const std::span<double> own = norm(l).population().sums();
    sums.insert(sums.end(), own.begin(), own.end());
  }
  all.all_reduce(std::span<double>(sums), Reduce::sum, {"population statistics", step});
  auto next = sums.cbegin();
  for (const int l : norms_) {
    PopulationStatistics& population = norm(l).population();
    std::copy_n(next, population.sums().size(), population.sums().begin());
    next += static_cast<std::ptrdiff_t>(population.sums().size());
    population.finish();
  }
}

void Network::run(const Sweep& sweep, const Pass& pass) {
  const auto whole = [&](const Step& s) { return layers_[static_cast<std::size_t>(s.layer)]->whole_batch(); };
  for (auto step = sweep.steps.begin(); step != sweep.steps.end();) {
    if (whole(*step)) {
      run(*step++, pass, {0, pass.n});
      continue;
    }
    const auto end = std::find_if(step, sweep.steps.end(), whole);
    for (std::int64_t begin = 0; begin < pass.n; begin += sweep.chunk) {
      const ops::Samples samples{begin, std::min(begin + sweep.chunk, pass.n)};
      for (auto s = step; s != end; ++s) run(*s, pass, samples);
    }
    step = end;
  }
}

void Network::run(const Step& step, const Pass& pass, ops::Samples samples) {
  Layer& layer = *layers_[static_cast<std::size_t>(step.layer)];
  const Places& place = places(step.layer);
  switch (step.action) {
    case Action::forward:
      return at(place.forward, [&] { layer.forward(pass, samples); });
    case Action::backward:
      return at(place.backward, [&] { layer.backward(pass, samples); });
    case Action::accumulate:
      if (norm(step.layer).uses_batch(pass)) at(place.forward, [&] { norm(step.layer).accumulate(pass, samples); });
      return;
    case Action::accumulate_backward:
      return at(place.backward, [&] { norm(step.layer).accumulate_backward(pass, samples); });
  }
}

int Network::first_nonfinite_layer() const {
  for (const int l : norms_) {
    if (!norm(l).local_finite()) return l;
  }
  return -1;
}

}  // namespace syncbn
