#pragma once

#include <memory>
#include <string>

#include "nn/layer.hpp"
#include "syncbn/comm/world.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

/// What computes in this process: "cpu: AVX2, oneDNN 2.6.3 for avx2".
std::string describe_compute();
/// The CUDA device that `device: cuda` would use, or what is missing.
std::string describe_cuda();

/// What the configuration's `precision` means.
ops::Precision precision_of(const Config& config);

/// The world that the configuration asks for.
WorldOptions world_options(const Config& config);

/// Kernels for the configuration's `device` and `precision`, one per rank; the ranks of a host take its devices in
/// turn. `allocate`: see ops::make_cpu_backend(). Throws Error(unavailable) that says what is missing.
std::unique_ptr<ops::Backend> make_backend(const World& world, const Config& config, ops::Allocate allocate = {});

}  // namespace syncbn
