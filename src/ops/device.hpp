#pragma once

// What a device with memory of its own does besides the layers' kernels, so that the numbers of a training stay there:
// flat buffers of parameters and gradients, their updates, batch normalization from sums to maps, the loss. On the
// processor other modules do these by themselves, in the memory that they share with the kernels.
//
// Pointers and tensors are in the device's memory unless a call says otherwise. Calls are queued, in the order of the
// worker whose backend it is, and return at once unless they say that they wait.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ops/backend.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops {

/// A place in a queue, which other queues and the processor can wait for. Until it is set it has been passed.
class Mark {
 public:
  virtual ~Mark() = default;
  /// Waits until the device has come to it.
  virtual void wait() const = 0;
  virtual bool passed() const = 0;
};

/// One batch normalization layer of one worker, between whose sweeps the sums of its group are needed: in a message of
/// count, sums and sums of squares about zero forward, of sum(g) and sum(g * (x - mean)) backward, f64, in the device's
/// memory. A worker that is alone in its group sends none, and has its statistics at once.
class Normalization {
 public:
  virtual ~Normalization() = default;

  /// This worker's sums over n samples, of which there may be 0; `alone` derives statistics and map from them.
  virtual void sums(const Tensor& x, std::int64_t n, bool alone, Affine affine) = 0;
  /// They: [1 + 2C]
  virtual const double* message() const = 0;
  /// Statistics and map from the group's.
  virtual void finish(const double* group, Affine affine) = 0;
  /// The group's statistics of the last batch, [C] each, in the processor's memory; var: biased. Waits.
  virtual void statistics(std::span<double> mean, std::span<double> var) = 0;
  /// Evaluation: from given statistics, [C] each.
  virtual void use_statistics(const float* mean, const float* var, Affine affine) = 0;
  virtual void apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
                     std::uint8_t* mask) = 0;
  /// c <- (1 - momentum) * c + share * statistic, for the mean and the unbiased variance; nothing if the group is
  /// empty. Then *kept = kept_value.
  virtual void fold_statistics(double momentum, double share, float* mean, float* var, float* kept,
                               float kept_value) = 0;

  /// The same steps backward; g = dy where the ReLU passed, else 0.
  virtual void backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu,
                             const std::uint8_t* mask, bool alone) = 0;
  virtual const double* backward_message() const = 0;  ///< [2C]
  virtual void finish_backward(const double* group) = 0;
  /// Adds to d(gamma) and d(beta), from this worker's message or the group's; either may be null.
  virtual void add_parameter_gradients(const double* sums, float* d_gamma, float* d_beta) = 0;
  virtual void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                        FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) = 0;
};

/// Update rules on flat buffers, slot by slot; formulas as in src/optim. `scale` multiplies the gradient first. What no
/// slot covers stays untouched.
class Updates {
 public:
  struct Slot {
    std::int64_t offset = 0;  ///< a multiple of 16; slots ascend and do not overlap
    std::int64_t count = 0;
    double weight_decay = 0;
  };
  struct Sgd {
    float lr, scale, momentum;
    bool nesterov;
  };
  struct Adam {
    float rate;        ///< lr / (1 - beta1^t); LAMB: 1 - beta1^t
    float correction;  ///< sqrt(1 - beta2^t)
    float scale, beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    double lr;       ///< of decoupled weight decay
    bool decoupled;  ///< AdamW: weight decay shrinks the parameters; else it is part of the gradient
  };

  virtual ~Updates() = default;
  /// squares[i] = sum of the squares of slot i, f64, in one order that follows from the slot's length. Waits.
  virtual void squares(const float* values, std::span<double> squares) = 0;
  /// `momentum` may be null.
  virtual void sgd(const Sgd& step, float* parameters, const float* gradient, float* momentum) = 0;
  virtual void adagrad(float lr, float scale, float eps, float* parameters, const float* gradient, float* sum) = 0;
  virtual void adam(const Adam& step, float* parameters, const float* gradient, float* mean, float* square) = 0;
  /// v = momentum * v + rates[slot] * (scale * g + decay * p), p -= v; rates: [slots], the processor's.
  virtual void lars(float momentum, float scale, std::span<const float> rates, float* parameters, const float* gradient,
                    float* velocity) = 0;
  /// direction = Adam's + decay * p
  virtual void lamb_direction(const Adam& step, const float* parameters, const float* gradient, float* mean,
                              float* square, float* direction) = 0;
  /// p -= rates[slot] * direction; rates: [slots], the processor's.
  virtual void descend(std::span<const float> rates, float* parameters, const float* direction) = 0;
};

/// What queues of a device were given while they were captured, to be done again by one call.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Whether the memory that it works in is still there.
  virtual bool valid() const = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  /// Its address on the host's bus, by which devices are told apart, and its number for this process.
  virtual std::string name() const = 0;
  virtual int index() const = 0;
  /// The queue as the device's own libraries know it (a cudaStream_t).
  virtual void* native_queue() const = 0;

  virtual std::unique_ptr<Mark> make_mark() const = 0;
  /// The mark is behind everything that has been queued here so far.
  virtual void set(Mark& mark) const = 0;
  /// What is queued here from now on comes after the mark. May be called by any thread.
  virtual void follow(const Mark& mark) const = 0;

  /// Waits until everything that has been queued here is done.
  virtual void finish() const = 0;

  /// From here on, what is queued here is captured instead of done, and so is what other queues are given behind a mark
  /// that is set here. Before end_capture() this queue must follow all of them again. Meanwhile nobody waits for such a
  /// queue or mark, and nothing comes from, or goes to, the processor's memory.
  virtual void begin_capture() const = 0;
  virtual std::unique_ptr<Graph> end_capture() const = 0;
  /// Queues here what was captured. Its numbers are those of the capture, but for what lies in the device's memory.
  virtual void launch(const Graph& graph) const = 0;

  /// A range on a profiler's time line, until it is closed, by any thread. Costs next to nothing where none is
  /// attached.
  virtual std::uint64_t open_range(const char* name) const = 0;
  virtual void close_range(std::uint64_t range) const = 0;

  /// Page-locks memory of the processor as long as the result lives, so that copies need not wait; does nothing where
  /// that is not to be had.
  virtual std::shared_ptr<void> pin(void* data, std::size_t bytes) const = 0;
  /// As Backend::download(), without waiting: `to` is complete when a mark set afterwards has been passed.
  virtual void start_download(const void* from, void* to, std::size_t bytes) const = 0;
  /// As Backend::upload() from page-locked memory, which must stay untouched until a mark set afterwards has been
  /// passed.
  virtual void start_upload(const void* from, void* to, std::size_t bytes) const = 0;
  /// As Backend::upload(), while what has been queued here before is still being done: as soon as `free` has been
  /// passed, behind which nobody needs what `to` holds. What is queued here from now on comes after it.
  virtual void upload_ahead(const void* from, void* to, std::size_t bytes, const Mark& free) const = 0;

  virtual void clear(float* values, std::int64_t count) const = 0;
  virtual void copy(const void* from, void* to, std::size_t bytes) const = 0;
  /// to = left + right; `to` may be one of them.
  virtual void add(const float* left, const float* right, float* to, std::int64_t count) const = 0;
  /// For each pair in turn, row `first` += row `second`: the first `count` values of rows `stride` values apart.
  virtual void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
                        std::int64_t count) const = 0;
  /// to = keep * to + share * values; the values are the processor's.
  virtual void blend(std::span<const double> values, double keep, double share, float* to) const = 0;
  /// running = kept[0] * running + contribution, of `count` values, for all of them at once.
  struct Running {
    const float *kept, *contribution;
    float* running;
    std::int64_t count;
  };
  virtual void update_running(std::span<const Running> all) const = 0;

  /// Softmax cross-entropy as syncbn::softmax_cross_entropy(); `labels` are the processor's. `d_logits` may be absent.
  virtual void start_loss(const Tensor& logits, std::span<const int> labels, double smoothing, double scale,
                          const Tensor& d_logits) const = 0;
  struct Loss {
    double sum = 0;
    std::int64_t correct = 0;
  };
  /// Waits for the loss that was started last.
  virtual Loss finish_loss() const = 0;

  virtual std::unique_ptr<Normalization> normalization(std::int64_t channels, double eps) const = 0;
  virtual std::unique_ptr<Updates> updates(const std::vector<Updates::Slot>& slots) const = 0;
};

/// Does the work, which queues something on this device, or waits for it: profilers show the place, errors name it.
/// Without a device it is just the work.
template <class Work>
void within(const Device* device, const std::string& place, Work work) {
  if (!device) return work();
  struct Range {
    const Device& device;
    std::uint64_t number;
    ~Range() { device.close_range(number); }
  };
  const Range range{*device, device->open_range(place.c_str())};
  try {
    work();
  } catch (const DeviceError& error) {
    throw error.at("in " + place);
  }
}

}  // namespace syncbn::ops
