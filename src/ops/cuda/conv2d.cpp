#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/kernels.cuh"
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

/// cuDNN's default arithmetic for f32 is TF32, where the device has it.
cudnnMathType_t math_type(Precision precision) {
  if (precision.type != DataType::f32) return CUDNN_TENSOR_OP_MATH;
  return precision.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

std::string describe(const Conv2dGeometry& g) {
  return fmt::format("convolution {}x{}x{} -> {}x{}x{}, kernel {}x{}, stride {}", g.c_in, g.h_in, g.w_in, g.c_out,
                     g.h_out, g.w_out, g.kernel_h, g.kernel_w, g.stride);
}

/// cuDNN's text, and from version 9 on the reason that it gives.
std::string text_of(cudnnStatus_t code) {
  std::string text = cudnnGetErrorString(code);
#if CUDNN_MAJOR >= 9
  std::array<char, 512> why{};
  cudnnGetLastErrorString(why.data(), why.size());
  if (why.front() != 0) text += fmt::format(" ({})", why.data());
#endif
  return text;
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

/// One direction of a convolution, with the algorithms that can compute it. They are searched for at the first run:
/// many convolutions never need the gradient of their input, and some numbers of samples need no gradient.
template <class Candidate, std::size_t kMost>
class Direction {
 public:
  using Algorithm = decltype(Candidate::algo);

  Direction(const Conv2dGeometry& g, Precision precision, std::string name)
      : name_(std::move(name)), precision_(precision) {
    check(cudnnCreateConvolutionDescriptor(descriptor_.place()), name_);
    const auto padding = static_cast<int>(g.padding), stride = static_cast<int>(g.stride);
    check(cudnnSetConvolution2dDescriptor(descriptor_, padding, padding, stride, stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                          CUDNN_DATA_FLOAT),
          name_);
    check(cudnnSetConvolutionMathType(descriptor_, math_type(precision)), name_);
  }

  cudnnConvolutionDescriptor_t descriptor() const { return descriptor_; }

  /// Runs the fastest algorithm, by cuDNN's own estimate, of those that are deterministic and that cuDNN does not
  /// refuse to run. `find` fills an array with candidates and returns their number; `workspace` asks how much memory
  /// one needs; `execute` starts it.
  template <class Find, class Workspace, class Execute>
  void run(Queue& queue, Find find, Workspace workspace, Execute execute) {
    if (choices_.empty()) list(find);
    for (; next_ < choices_.size(); ++next_) {
      const Choice& choice = choices_[next_];
      cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
      if (!works_) {
        status = cudnnSetConvolutionMathType(descriptor_, choice.math);
        if (status == CUDNN_STATUS_SUCCESS) status = workspace(choice.algorithm, &workspace_bytes_);
        if (status == CUDNN_STATUS_SUCCESS && workspace_bytes_ > kLargestWorkspace) status = CUDNN_STATUS_NOT_SUPPORTED;
      }
      if (status == CUDNN_STATUS_SUCCESS) {
        void* memory = queue.scratch<std::byte>(workspace_bytes_);
        const Turn turn;
        status = execute(choice.algorithm, memory, workspace_bytes_);
      }
      if (works_) check(status, name_);
      works_ = status == CUDNN_STATUS_SUCCESS;
      if (works_) return;
      last_ = status;
    }
    throw_library_error("cuDNN",
                        fmt::format("{}: none of {} algorithms that give the same result in every run works here",
                                    name_, choices_.size()),
                        text_of(last_).c_str());
  }

 private:
  struct Choice {
    Algorithm algorithm;
    cudnnMathType_t math;
  };
  /// The same for all devices, whatever memory is free: the algorithm affects the last bits of the result.
  static constexpr std::size_t kLargestWorkspace = std::size_t{1} << 30;

  template <class Find>
  void list(Find find) {
    std::array<Candidate, kMost> found{};
    int count = 0;
    check(find(&count, found.data()), name_);
    for (const Candidate& c : std::span(found).first(static_cast<std::size_t>(count))) {
      if (c.determinism != CUDNN_DETERMINISTIC || c.status != CUDNN_STATUS_SUCCESS) continue;
      // An algorithm is reported with its kind of arithmetic; for f32 the user chooses it.
      choices_.push_back({c.algo, precision_.type == DataType::f32 ? math_type(precision_) : c.mathType});
    }
    // IMPLICIT_PRECOMP_GEMM, BWD_DATA_ALGO_1, BWD_FILTER_ALGO_1: cuDNN's header does not list them as
    // non-deterministic.
    const auto plain = static_cast<Algorithm>(1);
    if (std::none_of(choices_.begin(), choices_.end(), [&](const Choice& c) { return c.algorithm == plain; }))
      choices_.push_back({plain, math_type(precision_)});
  }

  std::string name_;
  Precision precision_;
  Handle<cudnnConvolutionDescriptor_t, cudnnDestroyConvolutionDescriptor> descriptor_;
  std::vector<Choice> choices_;  // fastest first
  std::size_t next_ = 0;
  bool works_ = false;  // whether choices_[next_] has run
  std::size_t workspace_bytes_ = 0;
  cudnnStatus_t last_ = CUDNN_STATUS_SUCCESS;
};

constexpr float kOne = 1, kZero = 0;

/// Descriptors and algorithms for one number of samples.
struct Plan {
  TensorDescriptor x, y;
  Direction<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT> forward;
  Direction<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT> backward_data;
  Direction<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT> backward_weights;

  Plan(const Conv2dGeometry& g, Precision precision, std::int64_t n)
      : Plan(g, precision, n, fmt::format("{} of {} samples", describe(g), n)) {}

 private:
  Plan(const Conv2dGeometry& g, Precision precision, std::int64_t n, const std::string& name)
      : x(precision.type, n, g.c_in, g.h_in, g.w_in),
        y(precision.type, n, g.c_out, g.h_out, g.w_out),
        forward(g, precision, name),
        backward_data(g, precision, name + ", gradient of the input"),
        backward_weights(g, precision, name + ", gradient of the weights") {}
};

class CudaConv2dWeights final : public Conv2dWeights {
 public:
  CudaConv2dWeights(Queue& queue, const Conv2dGeometry& g, DataType type)
      : queue_(queue),
        shape_{g.c_out, g.c_in, g.kernel_h, g.kernel_w},
        type_(type),
        packed_(queue_, static_cast<std::size_t>(shape_.elements()) * size_of(type)) {}

  void pack(const float* weight) override {
    const Tensor from{const_cast<float*>(weight), shape_, DataType::f32, Layout::channels_first};
    reorder(queue_, from, {packed_.as<void>(), shape_, type_, Layout::channels_last}, shape_.n(), false);
  }
  /// Copies: the kernels' gradients already have the canonical order.
  void unpack_gradient(const float* packed, float* canonical) override {
    queue_.copy(canonical, packed, static_cast<std::size_t>(shape_.elements()) * sizeof(float),
                cudaMemcpyDeviceToDevice);
  }
  const void* packed() const { return packed_.as<void>(); }

 private:
  Queue& queue_;
  Shape shape_;
  DataType type_;
  DeviceMemory packed_;
};

/// A convolution, channels last, in the precision's type. One set of descriptors and algorithms per number of samples;
/// only algorithms whose results are the same in every run.
class CudaConv2d final : public ops::Conv2d {
 public:
  CudaConv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision);
  void forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) override;
  void backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                     bool accumulate) override;
  /// cuDNN computes the weight gradient in the precision's type, rounded once.
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override;

 private:
  static const void* packed(const Conv2dWeights& weight) {
    return static_cast<const CudaConv2dWeights&>(weight).packed();
  }
  static void* part(const Tensor& t, Samples s) {
    if (t.layout != Layout::channels_last) throw std::logic_error("convolutions on a device want channels last");
    return from_sample(t, s.begin).data;
  }
  Plan& plan(std::int64_t n);

  Libraries& libraries_;
  Conv2dGeometry geometry_;
  Shape shape_;  // shape of the weights
  Precision precision_;
  Handle<cudnnFilterDescriptor_t, cudnnDestroyFilterDescriptor> filter_;
  DeviceMemory weight_gradient_;
  std::map<std::int64_t, std::unique_ptr<Plan>> plans_;
};

CudaConv2d::CudaConv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision)
    : libraries_(libraries), geometry_(g), shape_{g.c_out, g.c_in, g.kernel_h, g.kernel_w}, precision_(precision) {
  const std::string what = describe(g);
  check(cudnnCreateFilterDescriptor(filter_.place()), what);
  check(
      cudnnSetFilter4dDescriptor(filter_, cudnn_type(precision.type), CUDNN_TENSOR_NHWC, static_cast<int>(g.c_out),
                                 static_cast<int>(g.c_in), static_cast<int>(g.kernel_h), static_cast<int>(g.kernel_w)),
      what);
  weight_gradient_ =
      DeviceMemory(libraries.queue(), static_cast<std::size_t>(shape_.elements()) * size_of(precision.type));
}

Plan& CudaConv2d::plan(std::int64_t n) {
  std::unique_ptr<Plan>& slot = plans_[n];
  if (!slot) slot = std::make_unique<Plan>(geometry_, precision_, n);
  return *slot;
}

void CudaConv2d::forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) {
  if (s.count() == 0) return;
  Plan& p = plan(s.count());
  const cudnnHandle_t cudnn = libraries_.cudnn();
  const cudnnConvolutionDescriptor_t d = p.forward.descriptor();
  p.forward.run(
      libraries_.queue(),
      [&](int* found, auto* list) {
        return cudnnGetConvolutionForwardAlgorithm_v7(cudnn, p.x, filter_, d, p.y, CUDNN_CONVOLUTION_FWD_ALGO_COUNT,
                                                      found, list);
      },
      [&](auto algorithm, std::size_t* bytes) {
        return cudnnGetConvolutionForwardWorkspaceSize(cudnn, p.x, filter_, d, p.y, algorithm, bytes);
      },
      [&](auto algorithm, void* workspace, std::size_t bytes) {
        return cudnnConvolutionForward(cudnn, &kOne, p.x, part(x, s), filter_, packed(weight), d, algorithm, workspace,
                                       bytes, &kZero, p.y, part(y, s));
      });
  if (bias) add_bias(libraries_.queue(), bias, from_sample(y, s.begin), s.count());
}

void CudaConv2d::backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                               bool accumulate) {
  if (s.count() == 0) return;
  Plan& p = plan(s.count());
  const cudnnHandle_t cudnn = libraries_.cudnn();
  const cudnnConvolutionDescriptor_t d = p.backward_data.descriptor();
  p.backward_data.run(
      libraries_.queue(),
      [&](int* found, auto* list) {
        return cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnn, filter_, p.y, d, p.x,
                                                           CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, found, list);
      },
      [&](auto algorithm, std::size_t* bytes) {
        return cudnnGetConvolutionBackwardDataWorkspaceSize(cudnn, filter_, p.y, d, p.x, algorithm, bytes);
      },
      [&](auto algorithm, void* workspace, std::size_t bytes) {
        return cudnnConvolutionBackwardData(cudnn, &kOne, filter_, packed(weight), p.y, part(dy, s), d, algorithm,
                                            workspace, bytes, accumulate ? &kOne : &kZero, p.x, part(dx, s));
      });
}

void CudaConv2d::backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                                  bool accumulate) {
  Queue& queue = libraries_.queue();
  if (!accumulate) {
    queue.clear(d_weight, static_cast<std::size_t>(shape_.elements()) * sizeof(float));
    if (d_bias) queue.clear(d_bias, static_cast<std::size_t>(geometry_.c_out) * sizeof(float));
  }
  if (n == 0) return;
  Plan& p = plan(n);
  const cudnnHandle_t cudnn = libraries_.cudnn();
  const cudnnConvolutionDescriptor_t d = p.backward_weights.descriptor();
  p.backward_weights.run(
      queue,
      [&](int* found, auto* list) {
        return cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnn, p.x, p.y, d, filter_,
                                                             CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, found, list);
      },
      [&](auto algorithm, std::size_t* bytes) {
        return cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnn, p.x, p.y, d, filter_, algorithm, bytes);
      },
      [&](auto algorithm, void* workspace, std::size_t bytes) {
        return cudnnConvolutionBackwardFilter(cudnn, &kOne, p.x, part(x, {0, n}), p.y, part(dy, {0, n}), d, algorithm,
                                              workspace, bytes, &kZero, filter_, weight_gradient_.as<void>());
      });
  const Tensor from{weight_gradient_.as<void>(), shape_, precision_.type, Layout::channels_last};
  const Tensor to{d_weight, shape_, DataType::f32, Layout::channels_first};
  reorder(queue, from, to, geometry_.c_out, true);
  if (d_bias) add_bias_gradient(queue, dy, n, d_bias);
}

}  // namespace

void check(cudnnStatus_t code, const std::string& what) {
  if (code != CUDNN_STATUS_SUCCESS) throw_library_error("cuDNN", what, text_of(code).c_str());
}

std::unique_ptr<Conv2dWeights> make_conv2d_weights(Queue& queue, const Conv2dGeometry& g, DataType type) {
  return std::make_unique<CudaConv2dWeights>(queue, g, type);
}
std::unique_ptr<ops::Conv2d> make_conv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision) {
  return std::make_unique<CudaConv2d>(libraries, g, precision);
}

}  // namespace syncbn::ops::cuda
