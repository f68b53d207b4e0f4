
#include "nn/layer_parameters.hpp"
#include "nn/normalization/group_norm_layer.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {

namespace {

using ops::Samples;

class Conv2dLayer : public Layer {
 public:
  Conv2dLayer(const LayerContext& context, int index, const LayerTensors& tensors)
      : t_(tensors),
        parameters_(context, index),
        packed_(context.state.packed(index)),
        conv_(context.backend.conv2d(conv2d_geometry(context.state.model(), index))) {}

  void forward(const Pass&, Samples s) override { conv_->forward(t_.x, packed_, parameters_.bias(), t_.y, s); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) conv_->backward_data(t_.dy, packed_, t_.dx, s, t_.accumulate_dx);
  }
  void backward_parameters(const Pass& pass) override {
    conv_->backward_weights(t_.x, t_.dy, pass.n, parameters_.d_weight(), parameters_.d_bias(), pass.accumulate);
  }

 private:
  LayerTensors t_;
  LayerParameters parameters_;
  const ops::Conv2dWeights& packed_;
  std::unique_ptr<ops::Conv2d> conv_;
};

class LinearLayer : public Layer {
 public:
  LinearLayer(const LayerContext& context, int index, const LayerTensors& tensors)
      : t_(tensors),
        state_(context.state),
        index_(index),
        parameters_(context, index),
        linear_(context.backend.linear(t_.x.shape.c(), t_.y.shape.c(), parameters_.bias() != nullptr)) {}

  void forward(const Pass&, Samples s) override {
    linear_->forward(t_.x, state_.linear_weights(index_), parameters_.bias(), t_.y, s.count());
  }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) linear_->backward_data(t_.dy, state_.linear_weights(index_), t_.dx, s.count(), t_.accumulate_dx);
  }
  void backward_parameters(const Pass& pass) override {
    linear_->backward_weights(t_.x, t_.dy, pass.n, parameters_.d_weight(), parameters_.d_bias(), pass.accumulate);
  }
  bool whole_batch() const override { return true; }

 private:
  LayerTensors t_;
  ModelState& state_;
  const int index_;
  LayerParameters parameters_;
  std::unique_ptr<ops::Linear> linear_;
};

class PoolLayer : public Layer {
 public:
  PoolLayer(const LayerContext& context, const LayerTensors& tensors, const ops::PoolGeometry& geometry)
      : t_(tensors), pool_(context.backend.pool(geometry)) {
    workspace_ =
        context.backend.allocate(static_cast<std::size_t>(pool_->workspace_bytes_per_sample() * context.max_samples));
  }
  void forward(const Pass&, Samples s) override { pool_->forward(t_.x, t_.y, workspace_.as<std::uint8_t>(), s); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) pool_->backward(t_.dy, t_.dx, workspace_.as<std::uint8_t>(), s, t_.accumulate_dx);
  }

 private:
  LayerTensors t_;
  std::unique_ptr<ops::Pool> pool_;
  ops::Memory workspace_;
};

/// A layer of one or two sweeps without state.
class SweepLayer : public Layer {
 public:
  SweepLayer(const LayerContext& context, const LayerTensors& tensors)
      : t_(tensors), ops_(context.backend.elementwise()) {}

 protected:
  LayerTensors t_;
  const ops::Elementwise& ops_;
};

class ActivationLayer : public SweepLayer {
 public:
  ActivationLayer(const LayerContext& context, const LayerTensors& tensors, ops::Activation kind, double slope)
      : SweepLayer(context, tensors), kind_(kind), slope_(static_cast<float>(slope)) {}
  void forward(const Pass&, Samples s) override { ops_.activate(kind_, slope_, t_.x, t_.y, s); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) ops_.activate_backward(kind_, slope_, t_.y, t_.dy, t_.dx, s, t_.accumulate_dx);
  }

 private:
  ops::Activation kind_;
  float slope_;
};

class AddLayer : public SweepLayer {
 public:
  using SweepLayer::SweepLayer;
  void forward(const Pass&, Samples s) override { ops_.add(t_.x, t_.r, t_.y, s); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) ops_.copy(t_.dy, t_.dx, s, t_.accumulate_dx);
    if (t_.dr) ops_.copy(t_.dy, t_.dr, s, t_.accumulate_dr);
  }
};

class GlobalAverageLayer : public SweepLayer {
 public:
  using SweepLayer::SweepLayer;
  void forward(const Pass&, Samples s) override { ops_.global_average(t_.x, t_.y, s); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) ops_.global_average_backward(t_.dy, t_.dx, s, t_.accumulate_dx);
  }
};

class FlattenLayer : public SweepLayer {
 public:
  using SweepLayer::SweepLayer;
  void forward(const Pass&, Samples s) override { ops_.reorder(t_.x, t_.y, s, false); }
  void backward(const Pass&, Samples s) override {
    if (t_.dx) ops_.reorder(t_.dy, t_.dx, s, t_.accumulate_dx);
  }
};

class DropoutLayer : public SweepLayer {
 public:
  DropoutLayer(const LayerContext& context, const LayerTensors& tensors, const LayerSpec& spec)
      : SweepLayer(context, tensors), p_(static_cast<float>(spec.p)), key_(hash_name(spec.name)) {}
  void forward(const Pass& pass, Samples s) override {
    if (pass.mode == Mode::train) {
      apply(pass, t_.x, t_.y, s, false);
    } else {
      ops_.copy(t_.x, t_.y, s, false);
    }
  }
  void backward(const Pass& pass, Samples s) override {
    if (t_.dx) apply(pass, t_.dy, t_.dx, s, t_.accumulate_dx);
  }
  bool repeats() const override { return false; }

 private:
  void apply(const Pass& pass, const Tensor& from, const Tensor& to, Samples s, bool accumulate) const {
    ops_.dropout(from, to, s, p_, pass.seed, static_cast<std::uint64_t>(pass.step), key_, pass.sample_ids.data(),
                 accumulate);
  }
  float p_;
  std::uint64_t key_;
};

ops::Activation activation_of(LayerType type) {
  switch (type) {
    case LayerType::leaky_relu:
      return ops::Activation::leaky_relu;
    case LayerType::sigmoid:
      return ops::Activation::sigmoid;
    case LayerType::tanh:
      return ops::Activation::tanh;
    default:
      return ops::Activation::relu;
  }
}

}  // namespace

std::unique_ptr<Layer> make_layer(const LayerContext& context, int index, const LayerTensors& t) {
  const LayerSpec& spec = context.state.model().layers[index];
  switch (spec.type) {
    case LayerType::conv2d:
      return std::make_unique<Conv2dLayer>(context, index, t);
    case LayerType::linear:
      return std::make_unique<LinearLayer>(context, index, t);
    case LayerType::relu:
    case LayerType::leaky_relu:
    case LayerType::sigmoid:
    case LayerType::tanh:
      return std::make_unique<ActivationLayer>(context, t, activation_of(spec.type), spec.slope);
    case LayerType::max_pool:
    case LayerType::avg_pool: {
      const auto kind = spec.type == LayerType::max_pool ? ops::PoolKind::max : ops::PoolKind::average;
      const Shape &in = t.x.shape, &out = t.y.shape;
      return std::make_unique<PoolLayer>(
          context, t,
          ops::PoolGeometry{kind, in.c(), in.h(), in.w(), out.h(), out.w(), spec.kernel_h, spec.stride, spec.padding});
    }
    case LayerType::global_avg_pool:
      return std::make_unique<GlobalAverageLayer>(context, t);
    case LayerType::dropout:
      return std::make_unique<DropoutLayer>(context, t, spec);
    case LayerType::flatten:
      return std::make_unique<FlattenLayer>(context, t);
    case LayerType::add:
      return std::make_unique<AddLayer>(context, t);
    case LayerType::group_norm:
      return std::make_unique<GroupNormLayer>(context, index, t);
    case LayerType::input:
    case LayerType::batch_norm:
    case LayerType::whitening:
      break;
  }
  throw Error("layer '" + spec.name + "' of type " + name_of(spec.type) + " is not made here");
}

}  // namespace syncbn
