// The libraries that cudnn.h and cublasLt.h stand in for. Refuses what they could not know: other types, wrong shapes.

#include "cublasLt.h"
#include "cudnn.h"

struct StandInCudnn {
  cudaStream_t stream = nullptr;
};

const char* cudnnGetErrorString(cudnnStatus_t code) {
  return code == CUDNN_STATUS_SUCCESS ? "success" : "not what the stand-in can do";
}
std::size_t cudnnGetVersion() {
  return 90000;
}
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = new StandInCudnn;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* descriptor) {
  *descriptor = new StandInShape;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t descriptor) {
  delete descriptor;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t descriptor, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
  *descriptor = {n, c, h, w};
  return format == CUDNN_TENSOR_NHWC && type == CUDNN_DATA_FLOAT ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* descriptor) {
  return cudnnCreateTensorDescriptor(descriptor);
}
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t descriptor) {
  return cudnnDestroyTensorDescriptor(descriptor);
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
  return cudnnSetTensor4dDescriptor(descriptor, format, type, k, c, h, w);
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* descriptor) {
  *descriptor = new StandInConvolution;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t descriptor) {
  delete descriptor;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t descriptor, int padding_h, int padding_w,
                                              int stride_h, int stride_w, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
  *descriptor = {padding_h, stride_h};
  const bool known = padding_h == padding_w && stride_h == stride_w && dilation_h == 1 && dilation_w == 1 &&
                     mode == CUDNN_CROSS_CORRELATION && compute == CUDNN_DATA_FLOAT;
  return known ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t, cudnnMathType_t type) {
  return type == CUDNN_FMA_MATH ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}

namespace {

/// As much as makes a wrong size noticed.
constexpr std::size_t kWorkspace = 1000;

cudnnStatus_t workspace(int algorithm, std::size_t* bytes) {
  *bytes = kWorkspace;
  return algorithm == 1 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

float value(const void* scalar) {
  return *static_cast<const float*>(scalar);
}

/// Queues: result = beta * result, where 0 forgets even a NaN; then visit(place in x, place in w, place in y) for every
/// product of the convolution.
template <class Visit>
cudnnStatus_t convolve(cudnnHandle_t handle, const StandInShape& x, const StandInShape& w, const StandInConvolution& g,
                       const StandInShape& y, int algorithm, void* memory, std::size_t bytes, float* result,
                       const StandInShape& result_shape, float beta, Visit visit) {
  const bool fits = x.n == y.n && w.c == x.c && w.n == y.c && y.h == (x.h + 2 * g.padding - w.h) / g.stride + 1 &&
                    y.w == (x.w + 2 * g.padding - w.w) / g.stride + 1 && algorithm == 1 && bytes == kWorkspace;
  if (!fits) return CUDNN_STATUS_BAD_PARAM;
  stand_in::queue(handle->stream, [=] {
    std::memset(memory, 0xFF, bytes);
    for (int i = 0; i < result_shape.n * result_shape.c * result_shape.h * result_shape.w; ++i)
      result[i] = beta == 0 ? 0 : beta * result[i];
    for (int n = 0; n < y.n; ++n)
      for (int row = 0; row < y.h; ++row)
        for (int column = 0; column < y.w; ++column)
          for (int i = 0; i < w.h; ++i)
            for (int j = 0; j < w.w; ++j) {
              const int h = row * g.stride - g.padding + i, v = column * g.stride - g.padding + j;
              if (h < 0 || h >= x.h || v < 0 || v >= x.w) continue;
              for (int k = 0; k < y.c; ++k)
                for (int c = 0; c < x.c; ++c)
                  visit(((n * x.h + h) * x.w + v) * x.c + c, ((k * w.h + i) * w.w + j) * w.c + c,
                        ((n * y.h + row) * y.w + column) * y.c + k);
            }
  });
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t, cudnnFilterDescriptor_t,
                                                      cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t algorithm, std::size_t* bytes) {
  return workspace(algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, cudnnFilterDescriptor_t,
                                                           cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t,
                                                           cudnnTensorDescriptor_t,
                                                           cudnnConvolutionBwdDataAlgo_t algorithm,
                                                           std::size_t* bytes) {
  return workspace(algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t,
                                                             cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t,
                                                             cudnnFilterDescriptor_t,
                                                             cudnnConvolutionBwdFilterAlgo_t algorithm,
                                                             std::size_t* bytes) {
  return workspace(algorithm, bytes);
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void*, cudnnTensorDescriptor_t x_shape, const void* x,
                                      cudnnFilterDescriptor_t w_shape, const void* w,
                                      cudnnConvolutionDescriptor_t convolution, cudnnConvolutionFwdAlgo_t algorithm,
                                      void* memory, std::size_t bytes, const void* beta,
                                      cudnnTensorDescriptor_t y_shape, void* y) {
  auto* sums = static_cast<float*>(y);
  const auto *xs = static_cast<const float*>(x), *ws = static_cast<const float*>(w);
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, sums, *y_shape,
                  value(beta), [=](int a, int b, int c) { sums[c] += xs[a] * ws[b]; });
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void*, cudnnFilterDescriptor_t w_shape,
                                           const void* w, cudnnTensorDescriptor_t y_shape, const void* dy,
                                           cudnnConvolutionDescriptor_t convolution,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* memory, std::size_t bytes,
                                           const void* beta, cudnnTensorDescriptor_t x_shape, void* dx) {
  auto* sums = static_cast<float*>(dx);
  const auto *dys = static_cast<const float*>(dy), *ws = static_cast<const float*>(w);
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, sums, *x_shape,
                  value(beta), [=](int a, int b, int c) { sums[a] += dys[c] * ws[b]; });
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void*, cudnnTensorDescriptor_t x_shape,
                                             const void* x, cudnnTensorDescriptor_t y_shape, const void* dy,
                                             cudnnConvolutionDescriptor_t convolution,
                                             cudnnConvolutionBwdFilterAlgo_t algorithm, void* memory, std::size_t bytes,
                                             const void* beta, cudnnFilterDescriptor_t w_shape, void* dw) {
  auto* sums = static_cast<float*>(dw);
  const auto *dys = static_cast<const float*>(dy), *xs = static_cast<const float*>(x);
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, sums, *w_shape,
                  value(beta), [=](int a, int b, int c) { sums[b] += dys[c] * xs[a]; });
}

const char* cublasLtGetStatusString(cublasStatus_t code) {
  return code == CUBLAS_STATUS_SUCCESS ? "success" : "not what the stand-in can do";
}
std::size_t cublasLtGetVersion() {
  return 130000;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* product, cublasComputeType_t, cudaDataType_t) {
  *product = new StandInProduct;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
  delete product;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  std::memcpy(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &product->a : &product->b, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* matrix, cudaDataType_t type, std::uint64_t rows,
                                          std::uint64_t columns, std::int64_t stride) {
  *matrix = new StandInMatrix{rows, columns, stride};
  return type == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t matrix) {
  delete matrix;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  *found = 1;
  results->algo.chosen = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void*, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void*, cublasLtMatrixLayout_t, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*,
                              std::size_t, cudaStream_t stream) {
  const bool a_turned = product->a == CUBLAS_OP_T, b_turned = product->b == CUBLAS_OP_T;
  const std::uint64_t m = a_turned ? a_layout->columns : a_layout->rows,
                      k = a_turned ? a_layout->rows : a_layout->columns;
  const std::uint64_t n = b_turned ? b_layout->rows : b_layout->columns;
  const bool fits = (b_turned ? b_layout->columns : b_layout->rows) == k && d_layout->rows == m &&
                    d_layout->columns == n && algorithm->chosen == 1;
  if (!fits) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto at = [](const void* values, const StandInMatrix& s, bool turned, std::uint64_t row, std::uint64_t column) {
    if (turned) std::swap(row, column);
    return static_cast<const float*>(values)[column * static_cast<std::uint64_t>(s.stride) + row];
  };
  stand_in::queue(stream, [=, a_shape = *a_layout, b_shape = *b_layout, d_shape = *d_layout, keep = value(beta)] {
    for (std::uint64_t column = 0; column < n; ++column) {
      for (std::uint64_t row = 0; row < m; ++row) {
        float sum = 0;
        for (std::uint64_t i = 0; i < k; ++i) {
          sum += at(a, a_shape, a_turned, row, i) * at(b, b_shape, b_turned, i, column);
        }
        float& out = static_cast<float*>(d)[column * static_cast<std::uint64_t>(d_shape.stride) + row];
        out = sum + (keep == 0 ? 0 : keep * out);
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}
