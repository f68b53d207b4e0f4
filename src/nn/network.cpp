#include "nn/network.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/round_up.hpp"
#include "nn/host_sums.hpp"

namespace syncbn {

namespace {

/// The input as images are given: f32, channels first.
Tensor given(Tensor input) {
  input.type = DataType::f32;
  input.layout = Layout::channels_first;
  return input;
}

}  // namespace

Network::Network(ModelState& state, const ops::Backend& backend, Communicator group, int groups,
                 std::int64_t max_samples, std::span<float> gradient, std::unique_ptr<GroupSums> sums)
    : state_(state),
      backend_(backend.for_worker()),
      sums_(std::move(sums)),
      gradient_(gradient),
      plan_(plan_network(state, *backend_, max_samples)) {
  if (backend_->device() && !sums_)
    sums_ = std::make_unique<HostSums>(*backend_, group, longest_message(state.model()));
  for (const LayerSpec& spec : state.model().layers)
    places_.push_back({spec.name + " forward", spec.name + " backward", spec.name + " message"});
  memory_ = backend_->allocate(static_cast<std::size_t>(plan_.arena.bytes));
  plan_.place(memory_.data());
  if (const ops::Device* device = backend_->device()) make_room_for_images(*device);
  make_layers({state, *backend_, gradient, std::move(group), sums_.get(), groups, max_samples});
}

Network::~Network() = default;

void Network::make_room_for_images(const ops::Device& device) {
  constexpr std::size_t kGrain = 256;  // values; alignment of rooms in a device's memory
  const Tensor input = given(plan_.outputs.front());
  const std::size_t bytes = round_up(input.bytes() / sizeof(float), kGrain);
  images_ = backend_->allocate(std::max(input.bytes(), image_rooms_.size() * bytes));
  std::size_t offset = 0;
  for (ImageRoom& room : image_rooms_) {
    room = {offset, device.make_mark()};
    device.set(*room.read);  // after the memory has been initialized
    offset += bytes;
  }
}

void Network::make_layers(const LayerContext& context) {
  const std::vector<LayerSpec>& specs = state_.model().layers;
  layers_.resize(specs.size());
  std::vector<bool> written(specs.size(), false);
  // In the order of the backward pass: the first layer to write a gradient assigns, later ones add.
  for (std::size_t l = specs.size() - 1; l > 0; --l) {
    const LayerSpec& spec = specs[l];
    LayerTensors t;
    t.y = plan_.outputs[l];
    t.dy = plan_.gradients[l];
    const auto connect = [&](int input, Tensor& x, Tensor& dx, bool& accumulate) {
      if (input < 0) return;
      const auto i = static_cast<std::size_t>(input);
      x = plan_.outputs[i];
      dx = plan_.gradients[i];
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

void Network::set_pixel_values(std::span<const float> values) {
  if (static_cast<std::int64_t>(values.size()) != 256 * plan_.outputs.front().shape.c())
    throw Error(fmt::format("{} pixel values for {} channels; 256 each are wanted", values.size(),
                            plan_.outputs.front().shape.c()));
  pixel_values_ = backend_->allocate(values.size_bytes());
  backend_->upload(values.data(), pixel_values_.data(), values.size_bytes());
}

void Network::set_images(const std::uint8_t* images, std::int64_t n) {
  const Tensor& input = plan_.outputs.front();
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
  const Tensor& input = plan_.outputs.front();
  Tensor from = given(input);
  if (images_.data()) from.data = images_.data();
  backend_->upload(images, from.data, static_cast<std::size_t>(n * input.sample_stride()) * sizeof(float));
  if (const ops::Device* device = backend_->device()) {
    backend_->elementwise().reorder(from, input, {0, n}, false);
    for (const ImageRoom& room : image_rooms_) device->set(*room.read);
  }
}

void Network::start_loss(std::span<const int> labels, double smoothing, double scale) {
  const Tensor gradient = scale != 0 ? plan_.gradients.back() : Tensor{};
  if (const ops::Device* device = backend_->device()) {
    at("loss", [&] { device->start_loss(plan_.outputs.back(), labels, smoothing, scale, gradient); });
  } else {
    loss_ = softmax_cross_entropy(plan_.outputs.back(), labels, smoothing, scale, gradient);
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
    for (const FlatRange& r : plan_.added_to) std::fill_n(gradient_.begin() + r.offset, r.count, 0.0f);
  }
  accumulate_ = backend_->device() != nullptr;
  for (const int l : plan_.norms) norm(l).begin_update();
}

void Network::forward(const Pass& pass) {
  for (const int l : plan_.norms) norm(l).begin(pass);
  for (const Stretch& stretch : plan_.forward) {
    run(stretch, pass);
    if (stretch.norm >= 0 && norm(stretch.norm).uses_batch(pass))
      at(places(stretch.norm).message, [&] { norm(stretch.norm).exchange(pass); });
  }
}

void Network::backward(const Pass& given, const std::function<void(int)>& finished) {
  Pass pass = given;
  pass.accumulate = accumulate_;
  accumulate_ = true;
  for (const int l : plan_.norms) norm(l).begin_backward(pass);
  for (const Stretch& stretch : plan_.backward) {
    run(stretch, pass);
    if (stretch.norm >= 0) at(places(stretch.norm).message, [&] { norm(stretch.norm).start_exchange_backward(pass); });
    for (const int l : stretch.parameters) {
      at(places(l).backward, [&] { layers_[l]->backward_parameters(pass); });
      finished(l);
    }
    if (stretch.norm >= 0) {
      at(places(stretch.norm).message, [&] { norm(stretch.norm).finish_exchange_backward(pass); });
      at(places(stretch.norm).backward, [&] { norm(stretch.norm).backward_parameters(pass); });
      finished(stretch.norm);
    }
  }
}

bool Network::repeats() const {
  return backend_->device() &&
         std::all_of(layers_.begin() + 1, layers_.end(), [](const auto& layer) { return layer->repeats(); });
}

void Network::begin_population() {
  for (const int l : plan_.norms) norm(l).population().begin();
}

void Network::finish_population(const Communicator& all, std::int64_t step) {
  std::vector<double> sums;
  for (const int l : plan_.norms) {
    const std::span<double> own = norm(l).population().sums();
    sums.insert(sums.end(), own.begin(), own.end());
  }
  all.all_reduce(std::span<double>(sums), Reduce::sum, {"population statistics", step});
  auto next = sums.cbegin();
  for (const int l : plan_.norms) {
    PopulationStatistics& population = norm(l).population();
    std::copy_n(next, population.sums().size(), population.sums().begin());
    next += static_cast<std::ptrdiff_t>(population.sums().size());
    population.finish();
  }
}

void Network::run(const Stretch& stretch, const Pass& pass) {
  const auto whole = [&](const Step& s) { return layers_[s.layer]->whole_batch(); };
  for (auto step = stretch.steps.begin(); step != stretch.steps.end();) {
    if (whole(*step)) {
      run(*step++, pass, {0, pass.n});
      continue;
    }
    const auto end = std::find_if(step, stretch.steps.end(), whole);
    for (std::int64_t begin = 0; begin < pass.n; begin += stretch.chunk) {
      const ops::Samples samples{begin, std::min(begin + stretch.chunk, pass.n)};
      for (auto s = step; s != end; ++s) run(*s, pass, samples);
    }
    step = end;
  }
}

void Network::run(const Step& step, const Pass& pass, ops::Samples samples) {
  Layer& layer = *layers_[step.layer];
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
  for (const int l : plan_.norms) {
    if (!norm(l).local_finite()) return l;
  }
  return -1;
}

}  // namespace syncbn
