// The libraries that cudnn.h and cublasLt.h stand in for. Sums are f32. Refuses what
// they could not know or would compute otherwise than in the precision that is meant, and wrong shapes.

#include "cublasLt.h"
#include "cudnn.h"
#include "numbers.hpp"

using stand_in::Number;

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
  *descriptor = {type, n, c, h, w};
  return format == CUDNN_TENSOR_NHWC ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
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
  *descriptor = {padding_h, stride_h, CUDNN_DEFAULT_MATH};
  const bool known = padding_h == padding_w && stride_h == stride_w && dilation_h == 1 && dilation_w == 1 &&
                     mode == CUDNN_CROSS_CORRELATION && compute == CUDNN_DATA_FLOAT;
  return known ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t descriptor, cudnnMathType_t type) {
  descriptor->math = type;
  return CUDNN_STATUS_SUCCESS;
}

namespace {

/// As much as makes a wrong size noticed.
constexpr std::size_t kWorkspace = 1000;

cudnnStatus_t workspace(int algorithm, std::size_t* bytes) {
  *bytes = kWorkspace;
  return algorithm == 1 || algorithm == 3 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

float value(const void* scalar) {
  return *static_cast<const float*>(scalar);
}

/// As they lie in memory.
Number stored(const StandInShape& shape) {
  return shape.type == CUDNN_DATA_HALF ? Number::f16 : shape.type == CUDNN_DATA_BFLOAT16 ? Number::bf16 : Number::f32;
}

struct Operand {
  const void* values;
  StandInShape shape;

  std::size_t count() const { return static_cast<std::size_t>(shape.n * shape.c * shape.h * shape.w); }
  /// As factors of products.
  std::vector<float> read(cudnnMathType_t math) const {
    const bool tf32 = shape.type == CUDNN_DATA_FLOAT && math != CUDNN_FMA_MATH;
    return stand_in::read_all(tf32 ? Number::tf32 : stored(shape), values, count());
  }
};

/// Queues: result = beta * result + what visit(a, b, sums, place in x, place in w, place in y) adds to the sums for
/// every product of the convolution.
template <class Visit>
cudnnStatus_t convolve(cudnnHandle_t handle, const StandInShape& x, const StandInShape& w, const StandInConvolution& g,
                       const StandInShape& y, int algorithm, void* memory, std::size_t bytes, Operand a, Operand b,
                       Operand result, const void* beta, Visit visit) {
  if (algorithm == 3) return CUDNN_STATUS_NOT_SUPPORTED;
  const bool fits = x.n == y.n && w.c == x.c && w.n == y.c && y.h == (x.h + 2 * g.padding - w.h) / g.stride + 1 &&
                    y.w == (x.w + 2 * g.padding - w.w) / g.stride + 1 && algorithm == 1 && bytes == kWorkspace;
  const bool alike = x.type == w.type && w.type == y.type;
  const bool narrow = x.type != CUDNN_DATA_FLOAT;
  const bool meant = g.math == CUDNN_DEFAULT_MATH || (g.math == CUDNN_FMA_MATH && !narrow);
  if (!fits || !alike || !meant) return CUDNN_STATUS_BAD_PARAM;
  if (stand_in::outcome("cudnnConvolution") != cudaSuccess) return CUDNN_STATUS_NOT_SUPPORTED;
  stand_in::queue(handle->stream, [=, keep = value(beta)] {
    std::memset(memory, 0xFF, bytes);
    const std::vector<float> as = a.read(g.math), bs = b.read(g.math);
    std::vector<float> sums(result.count());
    for (int n = 0; n < y.n; ++n)
      for (int row = 0; row < y.h; ++row)
        for (int column = 0; column < y.w; ++column)
          for (int i = 0; i < w.h; ++i)
            for (int j = 0; j < w.w; ++j) {
              const int h = row * g.stride - g.padding + i, v = column * g.stride - g.padding + j;
              if (h < 0 || h >= x.h || v < 0 || v >= x.w) continue;
              for (int k = 0; k < y.c; ++k)
                for (int c = 0; c < x.c; ++c)
                  visit(as.data(), bs.data(), sums.data(), ((n * x.h + h) * x.w + v) * x.c + c,
                        ((k * w.h + i) * w.w + j) * w.c + c, ((n * y.h + row) * y.w + column) * y.c + k);
            }
    stand_in::write_all(stored(result.shape), const_cast<void*>(result.values), sums, keep);
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
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, {x, *x_shape},
                  {w, *w_shape}, {y, *y_shape}, beta,
                  [](auto* xs, auto* ws, auto* sums, int a, int b, int c) { sums[c] += xs[a] * ws[b]; });
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void*, cudnnFilterDescriptor_t w_shape,
                                           const void* w, cudnnTensorDescriptor_t y_shape, const void* dy,
                                           cudnnConvolutionDescriptor_t convolution,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* memory, std::size_t bytes,
                                           const void* beta, cudnnTensorDescriptor_t x_shape, void* dx) {
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, {dy, *y_shape},
                  {w, *w_shape}, {dx, *x_shape}, beta,
                  [](auto* dys, auto* ws, auto* sums, int a, int b, int c) { sums[a] += dys[c] * ws[b]; });
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void*, cudnnTensorDescriptor_t x_shape,
                                             const void* x, cudnnTensorDescriptor_t y_shape, const void* dy,
                                             cudnnConvolutionDescriptor_t convolution,
                                             cudnnConvolutionBwdFilterAlgo_t algorithm, void* memory, std::size_t bytes,
                                             const void* beta, cudnnFilterDescriptor_t w_shape, void* dw) {
  return convolve(handle, *x_shape, *w_shape, *convolution, *y_shape, algorithm, memory, bytes, {dy, *y_shape},
                  {x, *x_shape}, {dw, *w_shape}, beta,
                  [](auto* dys, auto* xs, auto* sums, int a, int b, int c) { sums[b] += dys[c] * xs[a]; });
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
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* product, cublasComputeType_t compute, cudaDataType_t) {
  *product = new StandInProduct{CUBLAS_OP_N, CUBLAS_OP_N, compute == CUBLAS_COMPUTE_32F_FAST_TF32};
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
  *matrix = new StandInMatrix{type, rows, columns, stride};
  return CUBLAS_STATUS_SUCCESS;
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

namespace {

Number stored(const StandInMatrix& matrix) {
  return matrix.type == CUDA_R_16F ? Number::f16 : matrix.type == CUDA_R_16BF ? Number::bf16 : Number::f32;
}

/// A factor of a product, seen as op(values), by columns.
struct Factor {
  const void* values;
  StandInMatrix shape;
  bool turned;

  std::uint64_t rows() const { return turned ? shape.columns : shape.rows; }
  std::uint64_t columns() const { return turned ? shape.rows : shape.columns; }
  std::vector<float> read(bool tf32) const {
    const std::size_t count = shape.columns > 0 ? (shape.columns - 1) * stride() + shape.rows : 0;
    return stand_in::read_all(tf32 ? Number::tf32 : stored(shape), values, count);
  }
  std::uint64_t place(std::uint64_t row, std::uint64_t column) const {
    return turned ? row * stride() + column : column * stride() + row;
  }
  std::uint64_t stride() const { return static_cast<std::uint64_t>(shape.stride); }
};

}  // namespace

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void*, const void* a_values,
                              cublasLtMatrixLayout_t a_layout, const void* b_values, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void*, cublasLtMatrixLayout_t, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*,
                              std::size_t, cudaStream_t stream) {
  const Factor a{a_values, *a_layout, product->a == CUBLAS_OP_T}, b{b_values, *b_layout, product->b == CUBLAS_OP_T};
  const bool fits = b.rows() == a.columns() && d_layout->rows == a.rows() && d_layout->columns == b.columns() &&
                    d_layout->stride == static_cast<std::int64_t>(a.rows()) && algorithm->chosen == 1;
  const bool alike = a.shape.type == b.shape.type && (d_layout->type == a.shape.type || d_layout->type == CUDA_R_32F);
  if (!fits || !alike || (product->tf32 && a.shape.type != CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (stand_in::outcome("cublasLtMatmul") != cudaSuccess) return CUBLAS_STATUS_NOT_SUPPORTED;
  stand_in::queue(stream, [=, tf32 = product->tf32, d_type = stored(*d_layout), keep = value(beta)] {
    const std::vector<float> as = a.read(tf32), bs = b.read(tf32);
    std::vector<float> sums;
    for (std::uint64_t column = 0; column < b.columns(); ++column) {
      for (std::uint64_t row = 0; row < a.rows(); ++row) {
        float sum = 0;
        for (std::uint64_t i = 0; i < a.columns(); ++i) sum += as[a.place(row, i)] * bs[b.place(i, column)];
        sums.push_back(sum);
      }
    }
    stand_in::write_all(d_type, d, sums, keep);
  });
  return CUBLAS_STATUS_SUCCESS;
}
