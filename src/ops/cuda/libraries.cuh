#pragma once

// The use of cuDNN and cuBLASLt by the layers.

#include <cublasLt.h>
#include <cudnn.h>

#include <string>

#include "ops/cuda/runtime.cuh"

namespace syncbn::ops::cuda {

/// These throw DeviceError unless `code` is success: "cuDNN: <what>: <its own text> (device 0)".
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

}  // namespace syncbn::ops::cuda
