#include "ops/cuda/module.hpp"
#include "syncbn/core/error.hpp"

syncbn::ops::Backend* syncbn_cuda_backend(int) {
  throw syncbn::Error("device: cuda: the layers of this version run on the CPU only; use device: cpu",
                      syncbn::ExitCode::unavailable);
}
