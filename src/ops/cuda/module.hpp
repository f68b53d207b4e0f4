#pragma once

// The C interface between the program and its CUDA backend, libsyncbn_cuda.so. Both come from one build: the version is
// compared before any other function is called.

#include <cstddef>
#include <string>

#include "ops/backend.hpp"

namespace syncbn::ops::cuda {
/// Minimum major compute capability: Ampere has bf16, stream-ordered memory and asynchronous copies.
constexpr int kOldestMajor = 8;
/// The version of cuDNN, such as "cuDNN 9.1.0"; used within the backend.
std::string cudnn_version();
}  // namespace syncbn::ops::cuda

extern "C" {

/// Version of the program that this backend belongs to.
const char* syncbn_cuda_version();
/// Returns 0 if there is a usable device, described in `text`; otherwise `text` says what is missing. Never throws.
int syncbn_cuda_probe(char* text, std::size_t size);
/// Makes kernels on a device of this host; the caller deletes them. Throws Error.
syncbn::ops::Backend* syncbn_cuda_backend(int local_rank, syncbn::ops::Precision precision);
}
