#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nn/layer.hpp"
#include "nn/loss.hpp"
#include "nn/network_plan.hpp"
#include "nn/normalization/norm_layer.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// One worker's executable copy of a network: preallocated activations and the rank's shared ModelState. It processes a
/// batch as its NetworkPlan says.
class Network {
 public:
  /// `gradient`: this worker's flat gradient, as long as the state's flat buffers, in the kernels' memory. `sums`: the
  /// group's sums between devices that can reach each other; null: sums are computed on the CPU.
  Network(ModelState& state, const ops::Backend& backend, Communicator group, int groups, std::int64_t max_samples,
          std::span<float> gradient, std::unique_ptr<GroupSums> sums = nullptr);
  ~Network();

  /// Sets the values that the bytes of images stand for: [C, 256]. To be called before the first images of bytes.
  void set_pixel_values(std::span<const float> values);
  /// Sets the images of the next forward(): n images, channels_first, in CPU memory; bytes or values.
  void set_images(const std::uint8_t* images, std::int64_t n);
  void set_images(const float* images, std::int64_t n);
  /// Computes the loss of the last forward(), see softmax_cross_entropy(). With a scale other than 0, backward() starts
  /// from its gradient times scale. finish_loss() waits for a device, so it is best called after backward().
  void start_loss(std::span<const int> labels, double smoothing, double scale);
  LossResult finish_loss();
  /// On a device: to be called before waiting for it, see GroupSums::settle().
  void settle() { sums_->settle(); }

  /// Starts a new gradient; any number of forward / backward pairs then add to it.
  void begin_update();
  /// Computes the forward pass. Collective over the group in training.
  void forward(const Pass& pass);
  /// Computes the backward pass. `finished(layer)` is called once a layer's share of the gradient is complete.
  /// Collective over the group.
  void backward(const Pass& pass, const std::function<void(int)>& finished);

  /// Whether all training passes of the same number of samples, with one pass per update, queue the same calls for a
  /// device.
  bool repeats() const;

  /// Starts to collect the statistics of precise evaluation; followed by any number of forward passes with
  /// Pass::population, which are evaluations by batch statistics.
  void begin_population();
  /// Sets the statistics of Statistics::precise to those of these passes, over all groups: the same on all workers. One
  /// message. Collective over `all`, every worker of the network.
  void finish_population(const Communicator& all, std::int64_t step);
  /// The population statistics of a layer whose type shares_statistics(), as of the last finish_population().
  const PopulationStatistics& population(int layer) const { return norm(layer).population(); }

  /// Index of the model's first layer that shares_statistics() and has met a non-finite value on this worker since
  /// begin_update(); -1 if there is none.
  int first_nonfinite_layer() const;
  /// A layer's input in the last forward(), in the backend's memory and activation_type(), until the next one.
  const Tensor& input(int layer) const { return plan_.outputs[spec(layer).input]; }
  /// The output of the last layer, likewise: [max_samples, classes].
  const Tensor& logits() const { return plan_.outputs.back(); }
  /// The batch statistics of a layer that shares_statistics().
  BatchStatistics statistics(int layer) const { return norm(layer).statistics(); }
  /// The backend that computes this worker's part.
  const ops::Backend& backend() const { return *backend_; }

 private:
  using Action = NetworkPlan::Action;
  using Step = NetworkPlan::Step;
  using Stretch = NetworkPlan::Stretch;

  void make_room_for_images(const ops::Device& device);
  void make_layers(const LayerContext& context);
  /// The names of a layer's calls in device errors and profilers.
  struct Places {
    std::string forward, backward, message;
  };
  template <class Work>
  void at(const std::string& place, Work work) const {
    ops::within(backend_->device(), place, work);
  }
  void run(const Stretch& stretch, const Pass& pass);
  void run(const Step& step, const Pass& pass, ops::Samples samples);
  const LayerSpec& spec(int layer) const { return state_.model().layers[layer]; }
  const Places& places(int layer) const { return places_[layer]; }
  NormLayer& norm(int layer) const { return static_cast<NormLayer&>(*layers_[layer]); }

  ModelState& state_;
  std::unique_ptr<const ops::Backend> backend_;  // this worker's own
  std::unique_ptr<GroupSums> sums_;
  std::span<float> gradient_;
  NetworkPlan plan_;
  bool accumulate_ = false;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<Places> places_;  // per layer
  ops::Memory memory_;
  ops::Memory images_;  // on a device: images as given, in two alternating rooms
  struct ImageRoom {
    std::size_t offset = 0;
    std::unique_ptr<ops::Mark> read;  // set behind the last reader of this room
  };
  std::array<ImageRoom, 2> image_rooms_;
  std::size_t next_images_ = 0;
  ops::Memory pixel_values_;  // [C, 256]
  LossResult loss_;
};

}  // namespace syncbn
