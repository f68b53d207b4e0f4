#pragma once

// cuDNN and cuBLASLt, as the layers use them.

#include <cublasLt.h>
#include <cudnn.h>

#include <map>
#include <memory>

#include "ops/backend.hpp"
#include "ops/cuda/runtime.cuh"

namespace syncbn::ops::cuda {

/// Throw DeviceError unless `code` is success: "cuDNN: <what>: <its own text> (device 0)".
void check(cudnnStatus_t code, const std::string& what);
void check(cublasStatus_t code, const std::string& what);

/// The libraries' handles of one worker.
class Libraries {
 public:
  explicit Libraries(Queue& queue);
  Queue& queue() const { return queue_; }
  cudnnHandle_t cudnn() const { return cudnn_; }
  cublasLtHandle_t cublas() const { return cublas_; }

 private:
  Queue& queue_;
  Handle<cudnnHandle_t, cudnnDestroy> cudnn_;
  Handle<cublasLtHandle_t, cublasLtDestroy> cublas_;
};

/// 2-d convolution of one worker; tensors channels_last, of the precision's type, in device memory. One set of
/// descriptors and algorithms for each number of samples; only algorithms whose results are the same in every run.
class Conv2d {
 public:
  Conv2d(Libraries& libraries, const Conv2dGeometry& geometry, Precision precision);
  ~Conv2d();
  Conv2d(const Conv2d&) = delete;
  Conv2d& operator=(const Conv2d&) = delete;

  /// Elements of packed weights, [c_out, kernel_h, kernel_w, c_in] of the precision's type.
  std::int64_t packed_count() const;
  /// From the canonical f32 [c_out, c_in, kernel_h, kernel_w]; after each change of the weights.
  void pack(const float* weight, void* packed);

  void forward(const Tensor& x, const void* packed, const float* bias, const Tensor& y, std::int64_t n);
  void backward_data(const Tensor& dy, const void* packed, const Tensor& dx, std::int64_t n, bool accumulate);
  /// d_weight (canonical, f32) and d_bias (f32) += sums over the batch; cuDNN gives that of d_weight in the precision's
  /// type, rounded once.
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias);

 private:
  struct Plan;
  Plan& plan(std::int64_t n);

  Libraries& libraries_;
  Conv2dGeometry geometry_;
  Precision precision_;
  Handle<cudnnFilterDescriptor_t, cudnnDestroyFilterDescriptor> filter_;
  DeviceMemory weight_gradient_;
  std::map<std::int64_t, std::unique_ptr<Plan>> plans_;
};

/// y[N, out] = x[N, in] weight[out, in]^T + bias; weight of the precision's type, bias f32.
class Linear {
 public:
  Linear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  void forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n);
  void backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n, bool accumulate);
  /// d_weight [out, in] and d_bias [out], f32, += sums over the batch.
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias);

 private:
  struct Product;
  /// c[rows, columns] = (or +=) op(a) op(b), row by row.
  void multiply(const char* what, int key, std::int64_t n, const void* a, const void* b, void* c, bool accumulate);
  Product& product(int key, std::int64_t n);

  Libraries& libraries_;
  std::int64_t in_, out_;
  Precision precision_;
  std::map<std::pair<int, std::int64_t>, std::unique_ptr<Product>> products_;
};

}  // namespace syncbn::ops::cuda
