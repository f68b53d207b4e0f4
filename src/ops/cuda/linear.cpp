#include <fmt/format.h>

#include <map>
#include <utility>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20;
/// Alignment of all pointers, in bytes: parameters lie at multiples of 16 elements.
constexpr std::uint32_t kAlignment = 16;

cudaDataType_t cuda_type(DataType type) {
  switch (type) {
    case DataType::f16:
      return CUDA_R_16F;
    case DataType::bf16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

enum Which { kForward, kBackwardData, kBackwardWeights };

/// A matrix product of one shape. cuBLASLt is column-major, so it sees row-major matrices as transposed: it computes
/// the transpose of the wanted product, with the operands exchanged.
struct Product {
  Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation;
  Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace_bytes = 0;

  /// op(a): m x k, op(b): k x n, c: m x n, column-major; lda, ldb, ldc: elements from one column to the next.
  struct Form {
    cublasOperation_t op_a, op_b;
    std::int64_t m, n, k, lda, ldb, ldc;
    DataType c_type;
  };

  Product(cublasLtHandle_t handle, const Form& f, Precision precision, const std::string& what) {
    const auto compute =
        precision.type == DataType::f32 && precision.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const auto rows = [](cublasOperation_t op, std::int64_t plain, std::int64_t other) {
      return static_cast<std::uint64_t>(op == CUBLAS_OP_N ? plain : other);
    };
    check(cublasLtMatmulDescCreate(operation.place(), compute, CUDA_R_32F), what);
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &f.op_a, sizeof f.op_a), what);
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &f.op_b, sizeof f.op_b), what);
    check(cublasLtMatrixLayoutCreate(a.place(), cuda_type(precision.type), rows(f.op_a, f.m, f.k),
                                     rows(f.op_a, f.k, f.m), f.lda),
          what);
    check(cublasLtMatrixLayoutCreate(b.place(), cuda_type(precision.type), rows(f.op_b, f.k, f.n),
                                     rows(f.op_b, f.n, f.k), f.ldb),
          what);
    check(cublasLtMatrixLayoutCreate(c.place(), cuda_type(f.c_type), static_cast<std::uint64_t>(f.m),
                                     static_cast<std::uint64_t>(f.n), f.ldc),
          what);
    choose_algorithm(handle, what);
  }

 private:
  void choose_algorithm(cublasLtHandle_t handle, const std::string& what) {
    Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    check(cublasLtMatmulPreferenceCreate(preference.place()), what);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), what);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspace});
    // Partial products must be added in memory in a fixed order, never in place in order of arrival.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, c, preference, 1, &result, &found), what);
    if (found == 0) throw DeviceError(fmt::format("cuBLASLt: {}: it has no algorithm for this", what));
    algorithm = result.algo;
    workspace_bytes = result.workspaceSize;
  }
};

class CudaLinear final : public ops::Linear {
 public:
  CudaLinear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision);
  void forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n) override;
  void backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n, bool accumulate) override;
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override;

 private:
  /// c[rows, columns] = (or +=) op(a) op(b), row-major.
  void multiply(const char* what, int key, std::int64_t n, const void* a, const void* b, void* c, bool accumulate);
  Product& product(int key, std::int64_t n);

  Libraries& libraries_;
  std::int64_t in_, out_;
  Precision precision_;
  std::map<std::pair<int, std::int64_t>, std::unique_ptr<Product>> products_;
};

CudaLinear::CudaLinear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision)
    : libraries_(libraries), in_(in), out_(out), precision_(precision) {}

Product& CudaLinear::product(int key, std::int64_t n) {
  std::unique_ptr<Product>& slot = products_[{key, n}];
  if (slot) return *slot;
  const auto N = CUBLAS_OP_N, T = CUBLAS_OP_T;
  // Column-major, x is [in, n], the weight [in, out] and y [out, n].
  const Product::Form form = key == kForward        ? Product::Form{T, N, out_, n, in_, in_, in_, out_, precision_.type}
                             : key == kBackwardData ? Product::Form{N, N, in_, n, out_, in_, out_, in_, precision_.type}
                                                    : Product::Form{N, T, in_, out_, n, in_, out_, in_, DataType::f32};
  slot = std::make_unique<Product>(libraries_.cublas(), form, precision_,
                                   fmt::format("linear layer {} -> {} of {} samples", in_, out_, n));
  return *slot;
}

void CudaLinear::multiply(const char* what, int key, std::int64_t n, const void* a, const void* b, void* c,
                          bool accumulate) {
  Product& p = product(key, n);
  const float one = 1, beta = accumulate ? 1 : 0;
  void* workspace = libraries_.queue().scratch<std::byte>(p.workspace_bytes);
  const Turn turn;
  const cublasStatus_t code =
      cublasLtMatmul(libraries_.cublas(), p.operation, &one, a, p.a, b, p.b, &beta, c, p.c, c, p.c, &p.algorithm,
                     workspace, p.workspace_bytes, libraries_.queue().stream());
  if (code != CUBLAS_STATUS_SUCCESS) check(code, fmt::format("linear layer {} -> {}, {}", in_, out_, what));
}

void CudaLinear::forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n) {
  if (n == 0) return;
  multiply("forward", kForward, n, weight, x.data, y.data, false);
  if (bias) add_bias(libraries_.queue(), bias, y, n);
}

void CudaLinear::backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n,
                               bool accumulate) {
  if (n > 0) multiply("gradient of the input", kBackwardData, n, weight, dy.data, dx.data, accumulate);
}

void CudaLinear::backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                                  bool accumulate) {
  Queue& queue = libraries_.queue();
  if (!accumulate) {
    queue.clear(d_weight, static_cast<std::size_t>(in_ * out_) * sizeof(float));
    if (d_bias) queue.clear(d_bias, static_cast<std::size_t>(out_) * sizeof(float));
  }
  if (n == 0) return;
  multiply("gradient of the weights", kBackwardWeights, n, x.data, dy.data, d_weight, true);
  if (d_bias) add_bias_gradient(libraries_.queue(), dy, n, d_bias);
}

}  // namespace

void check(cublasStatus_t code, const std::string& what) {
  if (code != CUBLAS_STATUS_SUCCESS) throw_library_error("cuBLASLt", what, cublasLtGetStatusString(code));
}

Libraries::Libraries(Queue& queue) : queue_(queue) {
  check(cudaSetDevice(queue.device()), "choosing the device");
  check(cudnnCreate(cudnn_.place()), "starting cuDNN");
  check(cudnnSetStream(cudnn_, queue.stream()), "starting cuDNN");
  check(cublasLtCreate(cublas_.place()), "starting cuBLASLt");
}

std::unique_ptr<ops::Linear> make_linear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision) {
  return std::make_unique<CudaLinear>(libraries, in, out, precision);
}

}  // namespace syncbn::ops::cuda
