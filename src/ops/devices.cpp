#include <fmt/format.h>

#include <array>

#include "core/module.hpp"
#include "ops/backend.hpp"
#include "ops/cuda/module.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops {

namespace {

Module open_backend() {
  return open_module({.file = "libsyncbn_cuda.so",
                      .variable = "SYNCBN_CUDA_MODULE",
                      .version = "syncbn_cuda_version",
                      .article = "the ",
                      .name = "CUDA backend",
                      .if_missing = ": build it where the CUDA toolkit (nvcc) and cuDNN are installed",
                      .if_unusable = ": install the CUDA libraries it was built with"});
}

}  // namespace

Accelerator probe_cuda() {
  const Module module = open_backend();
  if (!module.problem.empty()) return {false, module.problem};
  std::array<char, 512> text{};
  const bool usable = module.find<decltype(syncbn_cuda_probe)>("syncbn_cuda_probe")(text.data(), text.size()) == 0;
  return {usable, text.data()};
}

std::unique_ptr<Backend> make_cuda_backend(int local_rank, Precision precision) {
  const Accelerator cuda = probe_cuda();
  if (!cuda.usable) {
    throw Error(fmt::format("device: cuda: {}, or use device: cpu", cuda.text), ExitCode::unavailable);
  }
  return std::unique_ptr<Backend>(
      open_backend().find<decltype(syncbn_cuda_backend)>("syncbn_cuda_backend")(local_rank, precision));
}

}  // namespace syncbn::ops
