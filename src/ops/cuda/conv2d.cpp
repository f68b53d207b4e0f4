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

/// The fastest by cuDNN's own estimate among those that give the same result in every run.
template <class Candidate, std::size_t kMost>
Candidate choose(const char* what, const std::array<Candidate, kMost>& candidates, int found) {
  for (int i = 0; i < found; ++i) {
    const Candidate& c = candidates[static_cast<std::size_t>(i)];
    if (c.status == CUDNN_STATUS_SUCCESS && c.determinism == CUDNN_DETERMINISTIC) return c;
  }
  throw DeviceError(
      fmt::format("cuDNN: {}: none of its {} algorithms gives the same result in every run", what, found));
}

std::string describe(const Conv2dGeometry& g) {
  return fmt::format("convolution {}x{}x{} -> {}x{}x{}, kernel {}x{}, stride {}", g.c_in, g.h_in, g.w_in, g.c_out,
                     g.h_out, g.w_out, g.kernel_h, g.kernel_w, g.stride);
}

/// A tensor descriptor [n, c, h, w], channels last.
class TensorDescriptor {
 public:
  TensorDescriptor(DataType type, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    check(cudnnCreateTensorDescriptor(&descriptor_), "describing a tensor");
    check(cudnnSetTensor4dDescriptor(descriptor_, CUDNN_TENSOR_NHWC, cudnn_type(type), static_cast<int>(n),
                                     static_cast<int>(c), static_cast<int>(h), static_cast<int>(w)),
          "describing a tensor");
  }
  ~TensorDescriptor() { cudnnDestroyTensorDescriptor(descriptor_); }
  TensorDescriptor(const TensorDescriptor&) = delete;
  TensorDescriptor& operator=(const TensorDescriptor&) = delete;
  operator cudnnTensorDescriptor_t() const { return descriptor_; }

 private:
  cudnnTensorDescriptor_t descriptor_ = nullptr;
};

constexpr float kOne = 1, kZero = 0;

}  // namespace

/// For one number of samples.
struct Conv2d::Plan {
  TensorDescriptor x, y;
  cudnnConvolutionFwdAlgo_t forward{};
  cudnnConvolutionBwdDataAlgo_t backward_data{};
  cudnnConvolutionBwdFilterAlgo_t backward_weights{};
  std::size_t forward_bytes = 0, backward_data_bytes = 0, backward_weights_bytes = 0;

  Plan(const Conv2dGeometry& g, DataType type, std::int64_t n)
      : x(type, n, g.c_in, g.h_in, g.w_in), y(type, n, g.c_out, g.h_out, g.w_out) {}
};

void check(cudnnStatus_t code, const std::string& what) {
  if (code != CUDNN_STATUS_SUCCESS) throw_library_error("cuDNN", what, cudnnGetErrorString(code));
}

Conv2d::Conv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision)
    : libraries_(libraries), geometry_(g), precision_(precision) {
  const std::string what = describe(g);
  check(cudnnCreateFilterDescriptor(&filter_), what);
  check(
      cudnnSetFilter4dDescriptor(filter_, cudnn_type(precision.type), CUDNN_TENSOR_NHWC, static_cast<int>(g.c_out),
                                 static_cast<int>(g.c_in), static_cast<int>(g.kernel_h), static_cast<int>(g.kernel_w)),
      what);
  check(cudnnCreateConvolutionDescriptor(&convolution_), what);
  const auto padding = static_cast<int>(g.padding), stride = static_cast<int>(g.stride);
  check(cudnnSetConvolution2dDescriptor(convolution_, padding, padding, stride, stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                        CUDNN_DATA_FLOAT),
        what);
  check(cudnnSetConvolutionMathType(convolution_, math_type(precision)), what);
  weight_gradient_ =
      DeviceMemory(libraries.queue(), static_cast<std::size_t>(packed_count()) * size_of(precision.type));
}

Conv2d::~Conv2d() {
  cudnnDestroyConvolutionDescriptor(convolution_);
  cudnnDestroyFilterDescriptor(filter_);
}

std::int64_t Conv2d::packed_count() const {
  return geometry_.c_out * geometry_.c_in * geometry_.kernel_h * geometry_.kernel_w;
}

Conv2d::Plan& Conv2d::plan(std::int64_t n) {
  std::unique_ptr<Plan>& slot = plans_[n];
  if (slot) return *slot;
  const std::string what = fmt::format("{} of {} samples", describe(geometry_), n);
  auto made = std::make_unique<Plan>(geometry_, precision_.type, n);
  cudnnHandle_t cudnn = libraries_.cudnn();
  int found = 0;

  std::array<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT> forward{};
  check(cudnnGetConvolutionForwardAlgorithm_v7(cudnn, made->x, filter_, convolution_, made->y,
                                               CUDNN_CONVOLUTION_FWD_ALGO_COUNT, &found, forward.data()),
        what);
  made->forward = choose(what.c_str(), forward, found).algo;
  check(cudnnGetConvolutionForwardWorkspaceSize(cudnn, made->x, filter_, convolution_, made->y, made->forward,
                                                &made->forward_bytes),
        what);

  std::array<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT> data{};
  check(cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnn, filter_, made->y, convolution_, made->x,
                                                    CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, &found, data.data()),
        what);
  made->backward_data = choose(what.c_str(), data, found).algo;
  check(cudnnGetConvolutionBackwardDataWorkspaceSize(cudnn, filter_, made->y, convolution_, made->x,
                                                     made->backward_data, &made->backward_data_bytes),
        what);

  std::array<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT> weights{};
  check(cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnn, made->x, made->y, convolution_, filter_,
                                                      CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, &found, weights.data()),
        what);
  made->backward_weights = choose(what.c_str(), weights, found).algo;
  check(cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnn, made->x, made->y, convolution_, filter_,
                                                       made->backward_weights, &made->backward_weights_bytes),
        what);
  slot = std::move(made);
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
  check(cudnnConvolutionForward(libraries_.cudnn(), &kOne, p.x, x.data, filter_, packed, convolution_, p.forward,
                                libraries_.queue().scratch<std::byte>(p.forward_bytes), p.forward_bytes, &kZero, p.y,
                                y.data),
        describe(geometry_));
  if (bias) add_bias(libraries_.queue(), bias, y, n);
}

void Conv2d::backward_data(const Tensor& dy, const void* packed, const Tensor& dx, std::int64_t n, bool accumulate) {
  if (n == 0) return;
  Plan& p = plan(n);
  check(cudnnConvolutionBackwardData(libraries_.cudnn(), &kOne, filter_, packed, p.y, dy.data, convolution_,
                                     p.backward_data, libraries_.queue().scratch<std::byte>(p.backward_data_bytes),
                                     p.backward_data_bytes, accumulate ? &kOne : &kZero, p.x, dx.data),
        describe(geometry_) + ", gradient of the input");
}

void Conv2d::backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias) {
  if (n == 0) return;
  Plan& p = plan(n);
  Queue& queue = libraries_.queue();
  check(cudnnConvolutionBackwardFilter(libraries_.cudnn(), &kOne, p.x, x.data, p.y, dy.data, convolution_,
                                       p.backward_weights, queue.scratch<std::byte>(p.backward_weights_bytes),
                                       p.backward_weights_bytes, &kZero, filter_, weight_gradient_.as<void>()),
        describe(geometry_) + ", gradient of the weights");
  const Shape shape{geometry_.c_out, geometry_.c_in, geometry_.kernel_h, geometry_.kernel_w};
  const Tensor from{weight_gradient_.as<void>(), shape, precision_.type, Layout::channels_last};
  const Tensor to{d_weight, shape, DataType::f32, Layout::channels_first};
  reorder(queue, from, to, geometry_.c_out, true);
  if (d_bias) add_bias_gradient(queue, dy, n, d_bias);
}

}  // namespace syncbn::ops::cuda
