#pragma once

// What a device with memory of its own does besides the layers' kernels, so that a training's data stays in its memory:
// flat buffers of parameters and gradients, their updates, batch normalization from sums to maps, the loss. On the CPU
// other modules do this themselves, in the memory that they share with the kernels.
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

/// A position in a queue, which other queues and the CPU can wait for. A mark that has not been set counts as passed.
class Mark {
 public:
  virtual ~Mark() = default;
  /// Waits until the device has passed it.
  virtual void wait() const = 0;
  virtual bool passed() const = 0;
};

/// One batch normalization layer of one worker. Between its sweeps the sums over its group are needed: forward in a
/// message of count, sums and sums of squares about zero; backward of sum(g) and sum(g * (x - mean)); f64, in the
/// device's memory. A worker that is alone in its group sends no message, and has its statistics at once.
class Normalization {
 public:
  virtual ~Normalization() = default;

  /// Computes this worker's sums over n samples (0 is allowed); with `alone` also statistics and map.
  virtual void sums(const Tensor& x, std::int64_t n, bool alone, Affine affine) = 0;
  /// The sums computed by sums(), [1 + 2C].
  virtual const double* message() const = 0;
  /// Derives statistics and map from the group's sums.
  virtual void finish(const double* group, Affine affine) = 0;
  /// Copies the group's statistics of the last batch, [C] each, to CPU memory; var: biased. Waits.
  virtual void statistics(std::span<double> mean, std::span<double> var) = 0;
  /// Evaluation: derives the map from given statistics, [C] each.
  virtual void use_statistics(const float* mean, const float* var, Affine affine) = 0;
  virtual void apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
                     std::uint8_t* mask) = 0;
  /// Adds the batch to the collected statistics c: c <- (1 - momentum) * c + share * statistic, for the mean and the
  /// unbiased variance; unchanged if the group has no samples. Then *kept = kept_value.
  virtual void fold_statistics(double momentum, double share, float* mean, float* var, float* kept,
                               float kept_value) = 0;

  /// The same steps for backward; g = dy where the ReLU passed, else 0.
  virtual void backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu,
                             const std::uint8_t* mask, bool alone) = 0;
  virtual const double* backward_message() const = 0;  ///< [2C]
  virtual void finish_backward(const double* group) = 0;
  /// Adds to d(gamma) and d(beta), given this worker's message or the group's sums; either may be null.
  virtual void add_parameter_gradients(const double* sums, float* d_gamma, float* d_beta) = 0;
  virtual void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                        FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) = 0;
};

/// Update rules on flat buffers, slot by slot; formulas as in src/optim. `scale` multiplies the gradient first.
/// Elements outside all slots stay unchanged.
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
    double lr;       ///< for decoupled weight decay
    bool decoupled;  ///< AdamW: weight decay shrinks the parameters; else it is part of the gradient
  };

  virtual ~Updates() = default;
  /// squares[i] = sum of the squares of slot i, f64, in a fixed order that depends on the slot's length alone. Waits.
  virtual void squares(const float* values, std::span<double> squares) = 0;
  /// `momentum` may be null.
  virtual void sgd(const Sgd& step, float* parameters, const float* gradient, float* momentum) = 0;
  virtual void adagrad(float lr, float scale, float eps, float* parameters, const float* gradient, float* sum) = 0;
  virtual void adam(const Adam& step, float* parameters, const float* gradient, float* mean, float* square) = 0;
  /// v = momentum * v + rates[slot] * (scale * g + decay * p), p -= v; rates: [slots], in CPU memory.
  virtual void lars(float momentum, float scale, std::span<const float> rates, float* parameters, const float* gradient,
                    float* velocity) = 0;
  /// direction = Adam's + decay * p
  virtual void lamb_direction(const Adam& step, const float* parameters, const float* gradient, float* mean,
                              float* square, float* direction) = 0;
  /// p -= rates[slot] * direction; rates: [slots], in CPU memory.
  virtual void descend(std::span<const float> rates, float* parameters, const float* direction) = 0;
};

/// The calls that were queued in a device's queues during a capture, to be repeated by one call.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Whether the memory that it uses still exists.
  virtual bool valid() const = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  /// The device's address on the host's bus, which distinguishes devices, and its number in this process.
  virtual std::string name() const = 0;
  virtual int index() const = 0;
  /// The queue as the device's own libraries know it (a cudaStream_t).
  virtual void* native_queue() const = 0;

  virtual std::unique_ptr<Mark> make_mark() const = 0;
  /// Places the mark behind everything queued here so far.
  virtual void set(Mark& mark) const = 0;
  /// Makes everything queued here from now on wait for the mark. May be called by any thread.
  virtual void follow(const Mark& mark) const = 0;

  /// Waits until everything queued here is done.
  virtual void finish() const = 0;

  /// Starts a capture: calls queued here are recorded instead of run, and so are those of other queues that follow a
  /// mark set here. Before end_capture() this queue must follow all of them again. During a capture nothing may wait
  /// for such a queue or mark, or copy to or from CPU memory.
  virtual void begin_capture() const = 0;
  virtual std::unique_ptr<Graph> end_capture() const = 0;
  /// Queues a captured graph here. Host arguments are frozen at capture; values in device memory are read at launch.
  virtual void launch(const Graph& graph) const = 0;

  /// Opens a range on a profiler's time line; any thread may close it. Costs almost nothing without a profiler.
  virtual std::uint64_t open_range(const char* name) const = 0;
  virtual void close_range(std::uint64_t range) const = 0;

  /// Page-locks CPU memory as long as the result lives, so that copies need not wait; does nothing where that is not
  /// possible.
  virtual std::shared_ptr<void> pin(void* data, std::size_t bytes) const = 0;
  /// As Backend::download(), without waiting: `to` is complete once a mark set afterwards has been passed.
  virtual void start_download(const void* from, void* to, std::size_t bytes) const = 0;
  /// As Backend::upload() from page-locked memory, which must stay untouched until a mark set afterwards has been
  /// passed.
  virtual void start_upload(const void* from, void* to, std::size_t bytes) const = 0;
  /// As Backend::upload(), but overlapping with work queued here before: the copy starts once `free` has been passed, a
  /// mark behind the last reader of `to`. Work queued here from now on comes after the copy.
  virtual void upload_ahead(const void* from, void* to, std::size_t bytes, const Mark& free) const = 0;

  virtual void clear(float* values, std::int64_t count) const = 0;
  virtual void copy(const void* from, void* to, std::size_t bytes) const = 0;
  /// to = left + right; `to` may be one of them.
  virtual void add(const float* left, const float* right, float* to, std::int64_t count) const = 0;
  /// For each pair in turn, row `first` += row `second`: the first `count` values of rows `stride` values apart.
  virtual void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
                        std::int64_t count) const = 0;
  /// to = keep * to + share * values; the values are in CPU memory.
  virtual void blend(std::span<const double> values, double keep, double share, float* to) const = 0;
  /// An entry of update_running(), for `count` values: running = kept[0] * running + contribution.
  struct Running {
    const float *kept, *contribution;
    float* running;
    std::int64_t count;
  };
  virtual void update_running(std::span<const Running> all) const = 0;

  /// Softmax cross-entropy as syncbn::softmax_cross_entropy(); `labels` are in CPU memory. `d_logits` may be absent.
  virtual void start_loss(const Tensor& logits, std::span<const int> labels, double smoothing, double scale,
                          const Tensor& d_logits) const = 0;
  struct Loss {
    double sum = 0;
    std::int64_t correct = 0;
  };
  /// Waits for the latest loss and returns it.
  virtual Loss finish_loss() const = 0;

  virtual std::unique_ptr<Normalization> normalization(std::int64_t channels, double eps) const = 0;
  virtual std::unique_ptr<Updates> updates(const std::vector<Updates::Slot>& slots) const = 0;
};

/// Runs work that queues something on this device, or waits for it, so that profilers show the place and errors name
/// it. Without a device it just runs the work.
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
