#pragma once

// The C interface between the program and its CUDA backend, libsyncbn_cuda.so. Both come from one build: the version is
// compared before anything else is called.

#include <cstddef>
#include <string>

#include "ops/backend.hpp"

namespace syncbn::ops::cuda {
/// Major number of the oldest compute capability: Ampere has bf16, stream-ordered memory and asynchronous copies.
constexpr int kOldestMajor = 8;
/// Within the backend: "cuDNN 9.1.0".
std::string cudnn_version();
}  // namespace syncbn::ops::cuda

extern "C" {

/// Version of the program that this backend belongs to.
const char* syncbn_cuda_version();
/// 0: there is a device that can be used, `text` describes it. Else `text` says what is missing. Never throws.
int syncbn_cuda_probe(char* text, std::size_t size);
/// Kernels on a device of this host; the caller deletes them. Throws Error.
syncbn::ops::Backend* syncbn_cuda_backend(int local_rank, syncbn::ops::Precision precision);
}
