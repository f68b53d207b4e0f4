#include <fmt/format.h>

#include <array>
#include <utility>

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/libraries.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

cudnnDataType_t cudnn_type(DataType type) {
  switch (type) {
    case DataType::f16:
      return CUDNN_DATA_HALF;
    case DataType::bf16:
      return CUDNN_DATA_BFLOAT16;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

/// f32 by default means TF32 to cuDNN, where the device has it.
cudnnMathType_t math_type(Precision precision) {
  if (precision.type != DataType::f32) return CUDNN_TENSOR_OP_MATH;
  return precision.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

std::string describe(const Conv2dGeometry& g) {
  return fmt::format("convolution {}x{}x{} -> {}x{}x{}, kernel {}x{}, stride {}", g.c_in, g.h_in, g.w_in, g.c_out,
                     g.h_out, g.w_out, g.kernel_h, g.kernel_w, g.stride);
}

/// A tensor descriptor [n, c, h, w], channels last.
class TensorDescriptor {
 public:
  TensorDescriptor(DataType type, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    check(cudnnCreateTensorDescriptor(descriptor_.place()), "describing a tensor");
    check(cudnnSetTensor4dDescriptor(descriptor_, CUDNN_TENSOR_NHWC, cudnn_type(type), static_cast<int>(n),
                                     static_cast<int>(c), static_cast<int>(h), static_cast<int>(w)),
          "describing a tensor");
  }
  operator cudnnTensorDescriptor_t() const { return descriptor_; }

 private:
  Handle<cudnnTensorDescriptor_t, cudnnDestroyTensorDescriptor> descriptor_;
};

/// One direction of a convolution.
template <class Algorithm>
class Direction {
 public:
  Direction(const Conv2dGeometry& g, Precision precision, std::string name)
      : name_(std::move(name)), precision_(precision) {
    check(cudnnCreateConvolutionDescriptor(descriptor_.place()), name_);
    const auto padding = static_cast<int>(g.padding), stride = static_cast<int>(g.stride);
    check(cudnnSetConvolution2dDescriptor(descriptor_, padding, padding, stride, stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                          CUDNN_DATA_FLOAT),
          name_);
    check(cudnnSetConvolutionMathType(descriptor_, math_type(precision)), name_);
  }

  const std::string& name() const { return name_; }
  cudnnConvolutionDescriptor_t descriptor() const { return descriptor_; }
  Algorithm algorithm() const { return algorithm_; }
  std::size_t workspace_bytes() const { return workspace_bytes_; }

  /// Takes the fastest, by cuDNN's own estimate, of those that give the same result in every run and that it then says
  /// how much memory they want. `candidates` fills an array and the number of them; `workspace` asks for the memory.
  template <class Candidate, std::size_t kMost, class Candidates, class Workspace>
  void choose(Candidates candidates, Workspace workspace) {
    std::array<Candidate, kMost> list{};
    int found = 0;
    check(candidates(&found, list.data()), name_);
    cudnnStatus_t last = CUDNN_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < found; ++i) {
      const Candidate& c = list[static_cast<std::size_t>(i)];
      if (c.determinism != CUDNN_DETERMINISTIC) continue;
      last = c.status;
      // An algorithm is meant with its own kind of arithmetic; of f32 that is the user's choice.
      if (last == CUDNN_STATUS_SUCCESS && precision_.type != DataType::f32)
        last = cudnnSetConvolutionMathType(descriptor_, c.mathType);
      if (last == CUDNN_STATUS_SUCCESS) last = workspace(c.algo, &workspace_bytes_);
      if (last != CUDNN_STATUS_SUCCESS) continue;
      algorithm_ = c.algo;
      return;
    }
    // IMPLICIT_PRECOMP_GEMM, BWD_DATA_ALGO_1, BWD_FILTER_ALGO_1: not among those that cuDNN's header calls
    // non-deterministic.
    const auto plain = static_cast<Algorithm>(1);
    check(cudnnSetConvolutionMathType(descriptor_, math_type(precision_)), name_);
    if (workspace(plain, &workspace_bytes_) == CUDNN_STATUS_SUCCESS) {
      algorithm_ = plain;
      return;
    }
    throw DeviceError(
        fmt::format("cuDNN: {}: none of its {} algorithms works here and gives the same result in every "
                    "run ({})",
                    name_, found, cudnnGetErrorString(last)));
  }

 private:
  std::string name_;
  Precision precision_;
  Handle<cudnnConvolutionDescriptor_t, cudnnDestroyConvolutionDescriptor> descriptor_;
  Algorithm algorithm_{};
  std::size_t workspace_bytes_ = 0;
};

constexpr float kOne = 1, kZero = 0;

}  // namespace

/// For one number of samples.
struct Conv2d::Plan {
  TensorDescriptor x, y;
  Direction<cudnnConvolutionFwdAlgo_t> forward;
  Direction<cudnnConvolutionBwdDataAlgo_t> backward_data;
  Direction<cudnnConvolutionBwdFilterAlgo_t> backward_weights;

  Plan(cudnnHandle_t cudnn, cudnnFilterDescriptor_t filter, const Conv2dGeometry& g, Precision precision,
       std::int64_t n)
      : x(precision.type, n, g.c_in, g.h_in, g.w_in),
        y(precision.type, n, g.c_out, g.h_out, g.w_out),
        forward(g, precision, fmt::format("{} of {} samples", describe(g), n)),
        backward_data(g, precision, forward.name() + ", gradient of the input"),
        backward_weights(g, precision, forward.name() + ", gradient of the weights") {
    forward.choose<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT>(
        [&](int* found, auto* list) {
          return cudnnGetConvolutionForwardAlgorithm_v7(cudnn, x, filter, forward.descriptor(), y,
                                                        CUDNN_CONVOLUTION_FWD_ALGO_COUNT, found, list);
        },
        [&](auto algorithm, std::size_t* bytes) {
          return cudnnGetConvolutionForwardWorkspaceSize(cudnn, x, filter, forward.descriptor(), y, algorithm, bytes);
        });
    backward_data.choose<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT>(
        [&](int* found, auto* list) {
          return cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnn, filter, y, backward_data.descriptor(), x,
                                                             CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, found, list);
        },
        [&](auto algorithm, std::size_t* bytes) {
          return cudnnGetConvolutionBackwardDataWorkspaceSize(cudnn, filter, y, backward_data.descriptor(), x,
                                                              algorithm, bytes);
        });
    backward_weights.choose<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT>(
        [&](int* found, auto* list) {
          return cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnn, x, y, backward_weights.descriptor(), filter,
                                                               CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, found, list);
        },
        [&](auto algorithm, std::size_t* bytes) {
          return cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnn, x, y, backward_weights.descriptor(), filter,
                                                                algorithm, bytes);
        });
  }
};

void check(cudnnStatus_t code, const std::string& what) {
  if (code != CUDNN_STATUS_SUCCESS) throw_library_error("cuDNN", what, cudnnGetErrorString(code));
}

Conv2d::Conv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision)
    : libraries_(libraries), geometry_(g), precision_(precision) {
  const std::string what = describe(g);
  check(cudnnCreateFilterDescriptor(filter_.place()), what);
  check(
      cudnnSetFilter4dDescriptor(filter_, cudnn_type(precision.type), CUDNN_TENSOR_NHWC, static_cast<int>(g.c_out),
                                 static_cast<int>(g.c_in), static_cast<int>(g.kernel_h), static_cast<int>(g.kernel_w)),
      what);
  weight_gradient_ =
      DeviceMemory(libraries.queue(), static_cast<std::size_t>(packed_count()) * size_of(precision.type));
}

Conv2d::~Conv2d() = default;

std::int64_t Conv2d::packed_count() const {
  return geometry_.c_out * geometry_.c_in * geometry_.kernel_h * geometry_.kernel_w;
}

Conv2d::Plan& Conv2d::plan(std::int64_t n) {
  std::unique_ptr<Plan>& slot = plans_[n];
  if (!slot) slot = std::make_unique<Plan>(libraries_.cudnn(), filter_, geometry_, precision_, n);
  return *slot;
}

void Conv2d::pack(const float* weight, void* packed) {
  const Shape shape{geometry_.c_out, geometry_.c_in, geometry_.kernel_h, geometry_.kernel_w};
  const Tensor from{const_cast<float*>(weight), shape, DataType::f32, Layout::channels_first};
  const Tensor to{packed, shape, precision_.type, Layout::channels_last};
  reorder(libraries_.queue(), from, to, geometry_.c_out, false);
}

void Conv2d::forward(const Tensor& x, const void* packed, const float* bias, const Tensor& y, std::int64_t n) {
  if (n == 0) return;
  Plan& p = plan(n);
  const auto& d = p.forward;
  check(cudnnConvolutionForward(libraries_.cudnn(), &kOne, p.x, x.data, filter_, packed, d.descriptor(), d.algorithm(),
                                libraries_.queue().scratch<std::byte>(d.workspace_bytes()), d.workspace_bytes(), &kZero,
                                p.y, y.data),
        d.name());
  if (bias) add_bias(libraries_.queue(), bias, y, n);
}

void Conv2d::backward_data(const Tensor& dy, const void* packed, const Tensor& dx, std::int64_t n, bool accumulate) {
  if (n == 0) return;
  Plan& p = plan(n);
  const auto& d = p.backward_data;
  check(cudnnConvolutionBackwardData(libraries_.cudnn(), &kOne, filter_, packed, p.y, dy.data, d.descriptor(),
                                     d.algorithm(), libraries_.queue().scratch<std::byte>(d.workspace_bytes()),
                                     d.workspace_bytes(), accumulate ? &kOne : &kZero, p.x, dx.data),
        d.name());
}

void Conv2d::backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias) {
  if (n == 0) return;
  Plan& p = plan(n);
  const auto& d = p.backward_weights;
  Queue& queue = libraries_.queue();
  check(cudnnConvolutionBackwardFilter(libraries_.cudnn(), &kOne, p.x, x.data, p.y, dy.data, d.descriptor(),
                                       d.algorithm(), queue.scratch<std::byte>(d.workspace_bytes()),
                                       d.workspace_bytes(), &kZero, filter_, weight_gradient_.as<void>()),
        d.name());
  const Shape shape{geometry_.c_out, geometry_.c_in, geometry_.kernel_h, geometry_.kernel_w};
  const Tensor from{weight_gradient_.as<void>(), shape, precision_.type, Layout::channels_last};
  const Tensor to{d_weight, shape, DataType::f32, Layout::channels_first};
  reorder(queue, from, to, geometry_.c_out, true);
  if (d_bias) add_bias_gradient(queue, dy, n, d_bias);
}

}  // namespace syncbn::ops::cuda
