#pragma once

// The parts of make_cpu_backend().

#include <memory>
#include <string>

#include "ops/backend.hpp"

namespace syncbn::ops::cpu {

std::unique_ptr<BatchNormKernels> make_batch_norm_kernels();
std::unique_ptr<Elementwise> make_elementwise();
std::unique_ptr<WhiteningKernels> make_whitening_kernels();
/// Makes a group normalization, which the kernels must outlive.
std::unique_ptr<GroupNormalization> make_group_normalization(const BatchNormKernels& kernels, std::int64_t channels,
                                                             std::int64_t groups, double eps, std::int64_t max_samples);
std::unique_ptr<Conv2dWeights> make_conv2d_weights(const Conv2dGeometry& g, const Allocate& allocate);
std::unique_ptr<Conv2d> make_conv2d(const Conv2dGeometry& g);
std::unique_ptr<Linear> make_linear(std::int64_t in, std::int64_t out, bool bias);
std::unique_ptr<Pool> make_pool(const PoolGeometry& g);

/// As Elementwise::reorder.
void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate);

/// The layout that oneDNN's convolutions are fastest in on this machine.
Layout preferred_layout(std::int64_t channels);
/// "oneDNN 2.6.3"
std::string onednn_version();

}  // namespace syncbn::ops::cpu
