#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "ops/backend.hpp"
#include "ops/cuda/module.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops {

namespace {

constexpr const char* kModuleName = "libsyncbn_cuda.so";

/// Beside the library that this function is in.
std::filesystem::path module_path() {
  if (const char* given = std::getenv("SYNCBN_CUDA_MODULE")) return given;
  Dl_info here{};
  if (!::dladdr(reinterpret_cast<const void*>(&probe_cuda), &here) || !here.dli_fname) return kModuleName;
  return std::filesystem::absolute(here.dli_fname).parent_path() / kModuleName;
}

/// The opened backend; stays open until the process ends, because threads and exit handlers of CUDA live in it.
struct Module {
  decltype(&syncbn_cuda_probe) probe = nullptr;
  decltype(&syncbn_cuda_backend) backend = nullptr;
  std::string problem;  ///< why there is none
};

Module open_module() {
  Module module;
  const std::filesystem::path path = module_path();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    module.problem = fmt::format(
        "this build has no CUDA backend ({} does not exist): build it where the CUDA toolkit (nvcc) and cuDNN are "
        "installed",
        path.string());
    return module;
  }
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    module.problem = fmt::format("the CUDA backend cannot be opened ({}): install the CUDA libraries it was built with",
                                 ::dlerror());
    return module;
  }
  const auto version = reinterpret_cast<decltype(&syncbn_cuda_version)>(::dlsym(library, "syncbn_cuda_version"));
  module.probe = reinterpret_cast<decltype(&syncbn_cuda_probe)>(::dlsym(library, "syncbn_cuda_probe"));
  module.backend = reinterpret_cast<decltype(&syncbn_cuda_backend)>(::dlsym(library, "syncbn_cuda_backend"));
  if (!version || !module.probe || !module.backend || version() != std::string(SYNCBN_VERSION)) {
    module.problem = fmt::format("the CUDA backend {} is of version {}, the program of {}: install both from one build",
                                 path.string(), version ? version() : "unknown", SYNCBN_VERSION);
  }
  return module;
}

}  // namespace

Accelerator probe_cuda() {
  const Module module = open_module();
  if (!module.problem.empty()) return {false, module.problem};
  std::array<char, 512> text{};
  const bool usable = module.probe(text.data(), text.size()) == 0;
  return {usable, text.data()};
}

std::unique_ptr<Backend> make_backend(const std::string& device, int local_rank, Precision precision) {
  if (device == "cpu") return make_cpu_backend();
  const Accelerator cuda = probe_cuda();
  if (!cuda.usable) {
    throw Error(fmt::format("device: cuda: {}, or use device: cpu", cuda.text), ExitCode::unavailable);
  }
  return std::unique_ptr<Backend>(open_module().backend(local_rank, precision));
}

}  // namespace syncbn::ops
