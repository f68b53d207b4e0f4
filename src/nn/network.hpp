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

/// One worker's executable copy of a network: preallocated activations over the rank's shared ModelState. It goes
/// through a batch as its NetworkPlan says.
class Network {
 public:
  /// `gradient`: this worker's flat gradient, as long as the state's flat buffers, in the kernels' memory. `sums`: on a
  /// device, of the group, if the devices can reach each other; else they go by way of the processors.
  Network(ModelState& state, const ops::Backend& backend, Communicator group, int groups, std::int64_t max_samples,
          std::span<float> gradient, std::unique_ptr<GroupSums> sums = nullptr);
  ~Network();

  /// What the bytes of images stand for: [C, 256]. Before the first of them.
  void set_pixel_values(std::span<const float> values);
  /// The images of the next forward(): n of them, channels_first, in the processor's memory; bytes or values.
  void set_images(const std::uint8_t* images, std::int64_t n);
  void set_images(const float* images, std::int64_t n);
  /// Loss of what forward() has computed, see softmax_cross_entropy(). With a scale other than 0 its gradient, times
  /// scale, is what backward() starts from. finish_loss(), best called after backward(), waits where a device computes.
  void start_loss(std::span<const int> labels, double smoothing, double scale);
  LossResult finish_loss();
  /// On a device: before a wait for it, see GroupSums::settle().
  void settle() { sums_->settle(); }

  /// Starts to collect the gradient anew; then any number of forward / backward pairs.
  void begin_update();
  /// Collective over the group in training.
  void forward(const Pass& pass);
  /// `finished(layer)` is called once a layer's share of the gradient is complete. Collective over the group.
  void backward(const Pass& pass, const std::function<void(int)>& finished);

  /// Whether training passes over as many samples, one in each update, all queue the same for a device.
  bool repeats() const;

  /// Starts to gather the statistics of precise evaluation anew; then any number of forward passes with
  /// Pass::population, which are evaluations by batch statistics.
  void begin_population();
  /// From here on Statistics::precise means what these passes have seen, over all groups: the same on all workers. One
  /// message. Collective over `all`, every worker of the network.
  void finish_population(const Communicator& all, std::int64_t step);
  /// Of a layer whose type shares_statistics(), as of the last finish_population().
  const PopulationStatistics& population(int layer) const { return norm(layer).population(); }

  /// Index into the model's layers of the first that shares_statistics() and met a value that is not a finite number on
  /// this worker since begin_update(); -1 if there is none.
  int first_nonfinite_layer() const;
  /// A layer's input in the last forward(), in the backend's memory and activation_type(), until the next one.
  const Tensor& input(int layer) const { return plan_.outputs[spec(layer).input]; }
  /// Of a layer that shares_statistics().
  BatchStatistics statistics(int layer) const { return norm(layer).statistics(); }
  /// What computes this worker's part.
  const ops::Backend& backend() const { return *backend_; }

 private:
  using Action = NetworkPlan::Action;
  using Step = NetworkPlan::Step;
  using Stretch = NetworkPlan::Stretch;

  void make_room_for_images(const ops::Device& device);
  void make_layers(const LayerContext& context);
  /// A layer's calls, as errors of a device and profilers name them.
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
  std::vector<Places> places_;  // of the layers
  ops::Memory memory_;
  ops::Memory images_;  // on a device: as they come, by turns at two places
  struct ImageRoom {
    std::size_t offset = 0;
    std::unique_ptr<ops::Mark> read;  // behind the last that needs what lies there
  };
  std::array<ImageRoom, 2> image_rooms_;
  std::size_t next_images_ = 0;
  ops::Memory pixel_values_;  // [C, 256]
  LossResult loss_;
};

}  // namespace syncbn
