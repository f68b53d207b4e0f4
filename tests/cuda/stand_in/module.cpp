// A CUDA backend that says what it is told to: of version STAND_IN_VERSION, on a host that lacks a device if
// STAND_IN_PROBLEM is not empty.

#include <cstdio>

#include "ops/cuda/module.hpp"

const char* syncbn_cuda_version() {
  return STAND_IN_VERSION;
}

int syncbn_cuda_probe(char* text, std::size_t size) {
  const bool usable = STAND_IN_PROBLEM[0] == '\0';
  std::snprintf(text, size, "%s", usable ? "a stand-in" : STAND_IN_PROBLEM);
  return usable ? 0 : 1;
}

syncbn::ops::Backend* syncbn_cuda_backend(int, syncbn::ops::Precision) {
  return syncbn::ops::make_cpu_backend().release();
}
