#include "syncbn/nn/batch_norm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "nn/normalization/batch_norm_pass.hpp"
#include "ops/backend.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

class BatchNorm::Context {
 public:
  std::shared_ptr<const ops::Backend> owner;  // kernels of the layer that ran forward; also identifies the layer
  std::optional<BatchNormPass> pass;
  bool ready = false;  // a forward call has succeeded
  ops::FusedRelu relu = ops::FusedRelu::none;
  Buffer mask;
  Tensor x;  // shape, type and layout only

  std::uint8_t* mask_bits() const { return relu == ops::FusedRelu::bits ? mask.as<std::uint8_t>() : nullptr; }
};

struct BatchNorm::Impl {
  std::shared_ptr<const ops::Backend> backend = ops::make_cpu_backend();
  std::string name;
  std::int64_t channels;
  BatchNormOptions options;
  Communicator group;
  std::vector<float> weight, bias, weight_grad, bias_grad, running_mean, running_var;
  std::vector<double> d_weight, d_bias;
  std::int64_t batches_tracked = 0;
  bool has_gradients = false;  // since zero_grad()
  bool gradients_are_reduced = false;

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(fmt::format("batch_norm '{}': {}", name, why), ExitCode::usage);
  }
  void check_options() const;
  void check_input(const Tensor& x) const;
  void check_like(const char* what, const Tensor& tensor, const Tensor& x, bool same_layout) const;
  void check_separate(const char* output, const Tensor& a, const char* input, const Tensor& b) const;
  void update_running(const BatchNormPass& pass);
  void add_gradients(const BatchNormPass& pass, bool reduced);
};

namespace {

std::string describe(const Tensor& t) {
  return fmt::format("{} {} {}", t.shape.str(), name_of(t.type), name_of(t.layout));
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* a_begin = static_cast<const std::byte*>(a.data);
  const auto* b_begin = static_cast<const std::byte*>(b.data);
  const std::less<> before;
  return a.bytes() > 0 && b.bytes() > 0 && before(a_begin, b_begin + b.bytes()) && before(b_begin, a_begin + a.bytes());
}

ops::Samples all_samples(const Tensor& x) {
  return {0, x.shape.spatial() == 0 ? 0 : x.shape.n()};
}

}  // namespace

void BatchNorm::Impl::check_options() const {
  if (channels < 1) refuse(fmt::format("it needs at least one channel, not {}", channels));
  if (!std::isfinite(options.eps) || options.eps < 0) {
    refuse(fmt::format("eps must be a finite number >= 0, not {}", options.eps));
  }
  if (!(options.momentum >= 0 && options.momentum <= 1)) {
    refuse(fmt::format("momentum must be in [0, 1], not {}", options.momentum));
  }
}

void BatchNorm::Impl::check_input(const Tensor& x) const {
  if (x.shape.rank() < 2) refuse(fmt::format("x must be [N, C] or [N, C, spatial...], not {}", x.shape.str()));
  for (int i = 0; i < x.shape.rank(); ++i)
    if (x.shape[i] < 0) refuse(fmt::format("x {} has a negative extent", x.shape.str()));
  if (x.shape.c() != channels) {
    refuse(fmt::format("x {} has {} channels, the layer {}", x.shape.str(), x.shape.c(), channels));
  }
  if (!x.data && all_samples(x).count() > 0) refuse(fmt::format("x {} has no data", x.shape.str()));
}

void BatchNorm::Impl::check_like(const char* what, const Tensor& tensor, const Tensor& x, bool same_layout) const {
  if (tensor.shape != x.shape || tensor.type != x.type || (same_layout && tensor.layout != x.layout)) {
    refuse(fmt::format("{} ({}) does not fit x ({})", what, describe(tensor), describe(x)));
  }
  if (!tensor.data && all_samples(x).count() > 0) refuse(fmt::format("{} {} has no data", what, tensor.shape.str()));
}

void BatchNorm::Impl::check_separate(const char* output, const Tensor& a, const char* input, const Tensor& b) const {
  if (overlap(a, b)) refuse(fmt::format("{} overlaps {} in memory", output, input));
}

void BatchNorm::Impl::update_running(const BatchNormPass& pass) {
  if (pass.count() == 0) return;
  ++batches_tracked;
  const double m = options.cumulative ? 1.0 / static_cast<double>(batches_tracked) : options.momentum;
  const auto blend = [m](float& running, double value) {
    running = static_cast<float>((1 - m) * static_cast<double>(running) + m * value);
  };
  for (std::size_t c = 0; c < running_mean.size(); ++c) {
    blend(running_mean[c], pass.mean()[c]);
    blend(running_var[c], pass.var()[c] * pass.unbiased_factor());
  }
}

void BatchNorm::Impl::add_gradients(const BatchNormPass& pass, bool reduced) {
  pass.parameter_gradients(reduced, d_weight, d_bias);
  for (std::size_t c = 0; c < weight_grad.size(); ++c) {
    weight_grad[c] = static_cast<float>(static_cast<double>(weight_grad[c]) + d_weight[c]);
    bias_grad[c] = static_cast<float>(static_cast<double>(bias_grad[c]) + d_bias[c]);
  }
  has_gradients = true;
  gradients_are_reduced = reduced;
}

BatchNorm::BatchNorm(std::string name, std::int64_t channels, const BatchNormOptions& options, Communicator group)
    : impl_(std::make_unique<Impl>()) {
  impl_->name = std::move(name);
  impl_->channels = channels;
  impl_->options = options;
  impl_->group = std::move(group);
  impl_->check_options();
  const auto c = static_cast<std::size_t>(channels);
  if (options.affine) {
    impl_->weight.assign(c, 1);
    for (auto* zeroed : {&impl_->bias, &impl_->weight_grad, &impl_->bias_grad}) zeroed->assign(c, 0);
  }
  if (options.track_running_stats) {
    impl_->running_mean.assign(c, 0);
    impl_->running_var.assign(c, 1);
  }
  impl_->d_weight.resize(c);
  impl_->d_bias.resize(c);
}

BatchNorm::~BatchNorm() = default;
BatchNorm::BatchNorm(BatchNorm&&) noexcept = default;
BatchNorm& BatchNorm::operator=(BatchNorm&&) noexcept = default;

std::shared_ptr<BatchNorm::Context> BatchNorm::make_context() {
  return std::make_shared<Context>();
}

void BatchNorm::forward(Mode mode, const Tensor& x, const Tensor& y, Context& context, Fused fused, std::int64_t step) {
  Impl& self = *impl_;
  const Tensor none;
  const Tensor& add = fused.add ? *fused.add : none;
  self.check_input(x);
  self.check_like("y", y, x, true);
  self.check_separate("y", y, "x", x);
  if (fused.add) self.check_like("the added tensor", add, x, true);

  context.ready = false;
  if (context.owner != self.backend) {
    context.owner = self.backend;
    context.pass.emplace(self.backend->batch_norm(), self.name, self.channels, self.options.eps, self.group);
  }
  BatchNormPass& pass = *context.pass;
  const ops::Samples samples = all_samples(x);

  if (mode == Mode::train || !self.options.track_running_stats) {
    pass.begin();
    pass.accumulate(x, samples);
    pass.start(step);
    pass.finish(self.weight, self.bias);
    pass.require_variance();
    if (mode == Mode::train && self.options.track_running_stats) self.update_running(pass);
  } else {
    pass.use_statistics(self.running_mean, self.running_var, self.weight, self.bias);
  }

  context.relu = !fused.relu ? ops::FusedRelu::none : fused.add ? ops::FusedRelu::bits : ops::FusedRelu::recompute;
  if (context.relu == ops::FusedRelu::bits) {
    const auto bytes = static_cast<std::size_t>(self.backend->batch_norm().mask_bytes_per_sample(x) * samples.count());
    if (context.mask.size() < bytes) context.mask = Buffer(bytes);
  }
  pass.apply(x, add, y, samples, context.relu, context.mask_bits());
  context.x = x;
  context.x.data = nullptr;
  context.ready = true;
}

void BatchNorm::backward(const Tensor& x, const Tensor& dy, Context& context, InputGradients want, std::int64_t step) {
  Impl& self = *impl_;
  const Tensor none;
  const Tensor& dx = want.dx ? *want.dx : none;
  const Tensor& d_add = want.d_add ? *want.d_add : none;
  if (!context.ready || context.owner != self.backend) {
    self.refuse("backward needs the context of a forward call of this layer");
  }
  self.check_input(x);
  self.check_like("x of backward", x, context.x, true);
  self.check_like("dy", dy, x, false);
  const auto check_output = [&](const char* what, const Tensor& output) {
    self.check_like(what, output, x, true);
    self.check_separate(what, output, "x", x);
    self.check_separate(what, output, "dy", dy);
  };
  if (want.dx) check_output("dx", dx);
  if (want.d_add) check_output("d_add", d_add);
  if (want.dx && want.d_add) self.check_separate("dx", dx, "d_add", d_add);

  BatchNormPass& pass = *context.pass;
  const bool exchange = want.dx && pass.uses_batch_statistics();
  if (self.options.affine && self.has_gradients && self.gradients_are_reduced != exchange) {
    self.refuse(
        fmt::format("the accumulated gradients are {}, this call's are {}; call zero_grad() between the two kinds",
                    exchange ? "local" : "summed over the group", exchange ? "summed over the group" : "local"));
  }

  const ops::Samples samples = all_samples(x);
  pass.begin_backward();
  pass.accumulate_backward(x, dy, samples, context.relu, context.mask_bits());
  if (exchange) {
    pass.start_backward(step);
    pass.finish_backward();
  }
  self.add_gradients(pass, exchange);
  if (want.dx || want.d_add) {
    pass.apply_backward(x, dy, dx, d_add, samples, context.relu, context.mask_bits(), want.accumulate_dx,
                        want.accumulate_add);
  }
}

bool BatchNorm::gradients_are_reduced() const {
  return impl_->gradients_are_reduced;
}

void BatchNorm::zero_grad() {
  std::fill(impl_->weight_grad.begin(), impl_->weight_grad.end(), 0.0F);
  std::fill(impl_->bias_grad.begin(), impl_->bias_grad.end(), 0.0F);
  impl_->has_gradients = false;
}

BatchNorm BatchNorm::convert(Communicator group) const {
  BatchNorm copy(impl_->name, impl_->channels, impl_->options, std::move(group));
  copy.impl_->weight = impl_->weight;
  copy.impl_->bias = impl_->bias;
  copy.impl_->running_mean = impl_->running_mean;
  copy.impl_->running_var = impl_->running_var;
  copy.impl_->batches_tracked = impl_->batches_tracked;
  return copy;
}

void BatchNorm::double_backward() const {
  impl_->refuse("there is no gradient of its gradient (double backward)");
}

const std::string& BatchNorm::name() const {
  return impl_->name;
}
std::int64_t BatchNorm::channels() const {
  return impl_->channels;
}
const BatchNormOptions& BatchNorm::options() const {
  return impl_->options;
}
const Communicator& BatchNorm::group() const {
  return impl_->group;
}
std::span<float> BatchNorm::weight() {
  return impl_->weight;
}
std::span<const float> BatchNorm::weight() const {
  return impl_->weight;
}
std::span<float> BatchNorm::bias() {
  return impl_->bias;
}
std::span<const float> BatchNorm::bias() const {
  return impl_->bias;
}
std::span<float> BatchNorm::weight_grad() {
  return impl_->weight_grad;
}
std::span<const float> BatchNorm::weight_grad() const {
  return impl_->weight_grad;
}
std::span<float> BatchNorm::bias_grad() {
  return impl_->bias_grad;
}
std::span<const float> BatchNorm::bias_grad() const {
  return impl_->bias_grad;
}
std::span<float> BatchNorm::running_mean() {
  return impl_->running_mean;
}
std::span<const float> BatchNorm::running_mean() const {
  return impl_->running_mean;
}
std::span<float> BatchNorm::running_var() {
  return impl_->running_var;
}
std::span<const float> BatchNorm::running_var() const {
  return impl_->running_var;
}
std::int64_t BatchNorm::num_batches_tracked() const {
  return impl_->batches_tracked;
}
void BatchNorm::set_num_batches_tracked(std::int64_t n) {
  if (n < 0) impl_->refuse(fmt::format("the number of batches seen must be >= 0, not {}", n));
  impl_->batches_tracked = n;
}

}  // namespace syncbn
