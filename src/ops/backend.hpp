#pragma once

// The interface to kernels, implemented on the CPU (ops/cpu) and on GPUs (ops/cuda). Kernels never communicate. Samples
// are processed in ranges, so that on the CPU a caller can go sample by sample while data is in cache; results never
// depend on how a batch is split into ranges unless a call says so. Tensors are of the backend's activation_type()
// unless a call says otherwise. One object is used by one worker's thread at a time.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/core/tensor.hpp"

namespace syncbn::ops {

/// Samples [begin, end) of a batch.
struct Samples {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
};

/// Per-channel map y = (x - center) * scale + shift, kept in this form so that large offsets do not cancel. Exact in
/// f64; round() derives the f32 form that f32 and narrower tensors use, where shift compensates for the rounding of
/// center. Arrays include the padding of every layout, which holds zeros.
struct ChannelMap {
  std::vector<double> center, scale, shift;
  std::vector<float> center_f, scale_f, shift_f;
  explicit ChannelMap(std::int64_t channels = 0);
  void round();
};

/// Per-channel coefficients of dx = p*g + q*(x - center) + r; round() as above, for the same center.
struct GradientMap {
  std::vector<double> p, q, r;
  std::vector<float> p_f, q_f, r_f;
  explicit GradientMap(std::int64_t channels = 0);
  void round(const ChannelMap& map);
};

/// The types in which a device computes. Products of convolutions and linear layers, and statistics, are accumulated in
/// f32 or f64; weights, their gradients and the optimizer's state are always f32 (mixed precision: Micikevicius et al.
/// 2018, arXiv 1710.03740).
struct Precision {
  DataType type = DataType::f32;  ///< f32, bf16 or f16: activations and their gradients, and weights in products
  bool tf32 = false;  ///< products may round f32 factors to TF32 (10 bits of mantissa), for the tensor cores
};

/// How backward obtains the mask of a ReLU that is fused behind a normalization.
enum class FusedRelu {
  none,       ///< no ReLU
  recompute,  ///< from x and the channel map, with exactly the arithmetic of the forward pass
  bits,       ///< from one bit per value, written by the forward pass (needed when a residual was added)
};

/// Sweeps of batch normalization. x, y, dx, dy: [N, C, spatial...] of type f32, f64, f16 or bf16 (the same for all in
/// one call), any layout; x and dy may differ in layout (slow path). Sums are per channel of the unpadded C.
class BatchNormKernels {
 public:
  virtual ~BatchNormKernels() = default;

  /// pivot[c] = mean over the positions of one sample (a value within the data's range, which keeps the sums small),
  /// rounded to the precision of the sums.
  virtual void pivot(const Tensor& x, std::int64_t sample, double* pivot) const = 0;
  /// sum[c] += sum(x - pivot), sum_sq[c] += sum((x - pivot)^2): short blocks in the data's precision (f32 at least),
  /// then f64. pivot[c] must be a value of that precision.
  virtual void sums(const Tensor& x, Samples samples, const double* pivot, double* sum, double* sum_sq) const = 0;
  /// y = map(x) (+ add) (then ReLU). `mask` (FusedRelu::bits) receives one bit per value; its size is given by
  /// mask_bytes_per_sample.
  virtual void apply(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, const ChannelMap& map,
                     FusedRelu relu, std::uint8_t* mask) const = 0;
  /// With g = dy where the ReLU passed, else 0: sum_dy[c] += sum(g), sum_dy_xc[c] += sum(g * (x - map.center)).
  virtual void backward_sums(const Tensor& x, const Tensor& dy, Samples samples, const ChannelMap& map, FusedRelu relu,
                             const std::uint8_t* mask, double* sum_dy, double* sum_dy_xc) const = 0;
  /// dx = p*g + q*(x - map.center) + r per channel; d_add = g if wanted. Either output may be absent; `accumulate_*`
  /// adds to the present values.
  virtual void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                        const ChannelMap& map, FusedRelu relu, const std::uint8_t* mask, const GradientMap& gradient,
                        bool accumulate_dx, bool accumulate_add) const = 0;
  virtual std::int64_t mask_bytes_per_sample(const Tensor& x) const = 0;
};

/// Sweeps of whitening: small dense matrices over groups of `width` neighbouring channels, [C / width][width][width],
/// in f64. Tensors: [N, C, spatial...], any layout.
class WhiteningKernels {
 public:
  virtual ~WhiteningKernels() = default;
  /// sum[i] += sum(a_i), products[i][j] += sum(a_i * b_j) over samples and positions, for i and j of one group, with
  /// a = `a` - a_center and b likewise, per channel.
  virtual void products(const Tensor& a, const double* a_center, const Tensor& b, const double* b_center,
                        Samples samples, std::int64_t width, double* sum, double* products) const = 0;
  /// One term of transform(): matrix * (x - center).
  struct Term {
    const Tensor& x;
    const double* center;
    const double* matrix;
  };
  /// y = (or +=, if accumulate) the sum of the terms + shift.
  virtual void transform(const std::vector<Term>& terms, const double* shift, const Tensor& y, Samples samples,
                         std::int64_t width, bool accumulate) const = 0;
};

/// Learned scale and shift of a normalization, [C] each; null: 1 and 0.
struct Affine {
  const float* gamma = nullptr;
  const float* beta = nullptr;
};

/// Group normalization (Wu & He 2018, arXiv 1803.08494) of one layer of one worker: y = gamma * (x - mean) / sqrt(var +
/// eps) + beta, with mean and biased var over the channels of a group and all positions of one sample; gamma and beta
/// per channel. With one group this is layer normalization, with as many groups as channels instance normalization. See
/// BatchNormKernels for the tensors, the ReLU and the mask.
class GroupNormalization {
 public:
  virtual ~GroupNormalization() = default;
  virtual void forward(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, Affine affine,
                       FusedRelu relu, std::uint8_t* mask) = 0;
  /// Computes the gradients of samples that forward() has processed; dx and d_add may be absent.
  virtual void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                        Affine affine, FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx,
                        bool accumulate_add) = 0;
  /// Adds to d(gamma) and d(beta) what backward() has summed over its `n` samples since the last call; either may be
  /// null.
  virtual void add_parameter_gradients(std::int64_t n, float* d_gamma, float* d_beta) = 0;
};

struct Conv2dGeometry {
  std::int64_t c_in, h_in, w_in, c_out, h_out, w_out;
  std::int64_t kernel_h, kernel_w, stride, padding;
  bool bias;
};

/// The weights of one convolution in the formats of its kernels, shared by the workers of a rank. If ranks share the
/// memory of make_cpu_backend(), weights that one of them packs are packed for all.
class Conv2dWeights {
 public:
  virtual ~Conv2dWeights() = default;
  /// Converts from the canonical [c_out, c_in, kh, kw]; to be called after each change of the weights.
  virtual void pack(const float* weight) = 0;
  /// Converts a gradient to canonical order. Kernels produce gradients in an order of their own, in which they can be
  /// summed over workers and batches.
  virtual void unpack_gradient(const float* packed, float* canonical) = 0;
};

/// 2-d convolution. x: [N, c_in, h, w], y: [N, c_out, h, w], in preferred_layout(); the CPU copies other layouts.
class Conv2d {
 public:
  virtual ~Conv2d() = default;
  virtual void forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) = 0;
  /// dx = (or +=, if accumulate) the gradient of the input.
  virtual void backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                             bool accumulate) = 0;
  /// d_weight (in the order that Conv2dWeights::unpack_gradient takes) and d_bias = (or +=, if accumulate) sums over
  /// all samples of the batch.
  virtual void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                                bool accumulate) = 0;
};

/// y[N, out] = x[N, in] weight[out, in]^T + bias. Processes the whole batch at once. The weight has the tensors' type,
/// everything else is f32.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual void forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n) = 0;
  virtual void backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n,
                             bool accumulate) = 0;
  /// d_weight and d_bias = (or +=, if accumulate) sums over all samples.
  virtual void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                                bool accumulate) = 0;
};

enum class PoolKind { max, average };  ///< average counts padding as PyTorch does (count_include_pad = true)

struct PoolGeometry {
  PoolKind kind;
  std::int64_t c, h_in, w_in, h_out, w_out;
  std::int64_t kernel, stride, padding;
};

class Pool {
 public:
  virtual ~Pool() = default;
  /// Bytes of workspace per sample that forward writes and backward reads (0 for average).
  virtual std::int64_t workspace_bytes_per_sample() const = 0;
  virtual void forward(const Tensor& x, const Tensor& y, std::uint8_t* workspace, Samples s) = 0;
  virtual void backward(const Tensor& dy, const Tensor& dx, const std::uint8_t* workspace, Samples s,
                        bool accumulate) = 0;
};

enum class Activation { relu, leaky_relu, sigmoid, tanh };

/// Simple sweeps, elementwise over whole samples (including padding) unless stated otherwise.
class Elementwise {
 public:
  virtual ~Elementwise() = default;
  virtual void activate(Activation kind, float slope, const Tensor& x, const Tensor& y, Samples s) const = 0;
  /// dx (+)= dy * f'(x), expressed through the output y.
  virtual void activate_backward(Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx,
                                 Samples s, bool accumulate) const = 0;
  virtual void add(const Tensor& a, const Tensor& b, const Tensor& y, Samples s) const = 0;
  /// y (+)= x
  virtual void copy(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const = 0;
  /// Dropout: y = x * keep / (1 - p); keep of value i (index in channels_first order of its sample) is a pure function
  /// of (seed, step, layer_key, sample_ids[sample], i). Backward calls it with dy and dx.
  virtual void dropout(const Tensor& x, const Tensor& y, Samples s, float p, std::uint64_t seed, std::uint64_t step,
                       std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) const = 0;
  /// y[N, C] = mean of x over the positions (any layout); and its gradient.
  virtual void global_average(const Tensor& x, const Tensor& y, Samples s) const = 0;
  virtual void global_average_backward(const Tensor& dy, const Tensor& dx, Samples s, bool accumulate) const = 0;
  /// y = values[256 c + byte] for the bytes of channel c, [N, C, H, W]; y in any layout. `bytes` and `values` are in
  /// the kernels' memory.
  virtual void look_up(const std::uint8_t* bytes, const float* values, const Tensor& y, Samples s) const = 0;
  /// y (+)= x, from any layout to any layout; same shape or [N, C*H*W] <-> [N, C, H, W] (flatten in channels_first
  /// order).
  virtual void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const = 0;
};

/// Owner of memory that kernels work in: the CPU's or a device's.
class Memory {
 public:
  Memory() = default;
  Memory(std::shared_ptr<std::byte> data, std::size_t bytes) : data_(std::move(data)), size_(bytes) {}
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::shared_ptr<std::byte> data_;
  std::size_t size_ = 0;
};

/// Gives zeroed memory aligned to 64 bytes.
using Allocate = std::function<Memory(std::size_t bytes)>;

class Device;

/// Makes kernels for one device. On a device with memory of its own, tensors, masks, workspaces, weights, biases and
/// their gradients are in memory from allocate(); all other arguments and results of kernels are in CPU memory.
class Backend {
 public:
  virtual ~Backend() = default;
  /// Makes a backend for one worker: on a device, with a queue of its own, whose work is done in order. `urgent`: its
  /// work goes before that of other queues.
  virtual std::unique_ptr<Backend> for_worker(bool urgent = false) const = 0;
  /// Allocates memory, zeroed, aligned to 64 bytes, for the users of this object: all workers, or the one of
  /// for_worker(), whom the memory must not outlive.
  virtual Memory allocate(std::size_t bytes) const = 0;
  /// Copies between CPU memory and memory from allocate(), in the order of the worker's calls. `from` may be changed on
  /// return; so upload() need not wait for the device, download() does.
  virtual void upload(const void* from, void* to, std::size_t bytes) const = 0;
  virtual void download(const void* from, void* to, std::size_t bytes) const = 0;
  /// Further operations of a device with memory of its own, see ops/device.hpp; null on the CPU. Kernels of a device
  /// should get a whole batch in each call, while on the CPU small ranges stay in cache.
  virtual const Device* device() const { return nullptr; }
  /// Describes the backend: "cpu: AVX-512, oneDNN 2.6.3".
  virtual std::string description() const = 0;
  /// The type of activations and their gradients.
  virtual DataType activation_type() const { return DataType::f32; }
  /// The layout that convolutions need for this many channels. On a device the same for all; on the CPU channels_first
  /// for c <= 4, i.e. images.
  virtual Layout preferred_layout(std::int64_t channels) const = 0;
  /// Called once on every worker's thread before any other call from it.
  virtual void prepare_thread() const = 0;
  virtual const BatchNormKernels& batch_norm() const = 0;
  virtual const Elementwise& elementwise() const = 0;
  virtual const WhiteningKernels& whitening() const = 0;
  /// `groups` divides `channels`; at most `max_samples` at a time.
  virtual std::unique_ptr<GroupNormalization> group_normalization(std::int64_t channels, std::int64_t groups,
                                                                  double eps, std::int64_t max_samples) const = 0;
  virtual std::unique_ptr<Conv2dWeights> conv2d_weights(const Conv2dGeometry& g) const = 0;
  virtual std::unique_ptr<Conv2d> conv2d(const Conv2dGeometry& g) const = 0;
  virtual std::unique_ptr<Linear> linear(std::int64_t in, std::int64_t out, bool bias) const = 0;
  virtual std::unique_ptr<Pool> pool(const PoolGeometry& g) const = 0;
};

/// Makes the CPU backend: oneDNN for convolutions, pooling and matrix products, own vector kernels for the rest.
/// `allocate`: provides the memory of allocate() and of conv2d_weights(), which is not touched before its first use and
/// may be shared by processes. By default private memory, as for a worker.
std::unique_ptr<Backend> make_cpu_backend(Allocate allocate = {});

/// A CUDA device that a host may offer, or why it has none.
struct Accelerator {
  bool usable = false;
  std::string
      text;  ///< usable: "NVIDIA H100 80GB HBM3, compute capability 9.0, ..."; else what is missing, in one line
};

/// Looks for a CUDA device. The CUDA backend is a separate library beside libsyncbn ($SYNCBN_CUDA_MODULE names another
/// file), loaded at the first call, so that one program runs on machines with and without CUDA.
Accelerator probe_cuda();

/// Makes a backend on a CUDA device. `local_rank` selects among the host's devices that CUDA_VISIBLE_DEVICES does not
/// hide. Throws Error(unavailable) that says what is missing.
std::unique_ptr<Backend> make_cuda_backend(int local_rank, Precision precision = {});

}  // namespace syncbn::ops
