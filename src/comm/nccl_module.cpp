#include "comm/nccl_module.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

namespace syncbn::detail {

namespace {

constexpr const char* kModuleName = "libsyncbn_nccl.so";

/// Beside the library that this function is in.
std::filesystem::path module_path() {
  if (const char* given = std::getenv("SYNCBN_NCCL_MODULE")) return given;
  Dl_info here{};
  if (!::dladdr(reinterpret_cast<const void*>(&open_nccl_module), &here) || !here.dli_fname) return kModuleName;
  return std::filesystem::absolute(here.dli_fname).parent_path() / kModuleName;
}

}  // namespace

NcclModule open_nccl_module() {
  NcclModule module;
  const std::filesystem::path path = module_path();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    module.problem = fmt::format("this build has no NCCL ({} does not exist)", path.string());
    return module;
  }
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    module.problem = fmt::format("NCCL cannot be opened ({}); install libnccl2", ::dlerror());
    return module;
  }
  const auto version = reinterpret_cast<decltype(&syncbn_nccl_version)>(::dlsym(library, "syncbn_nccl_version"));
  module.make_id = reinterpret_cast<decltype(&syncbn_nccl_make_id)>(::dlsym(library, "syncbn_nccl_make_id"));
  module.connect = reinterpret_cast<decltype(&syncbn_nccl_connect)>(::dlsym(library, "syncbn_nccl_connect"));
  if (!version || !module.make_id || !module.connect || version() != std::string(SYNCBN_VERSION))
    module.problem =
        fmt::format("{} is of another version than {}: install both from one build", path.string(), SYNCBN_VERSION);
  return module;
}

}  // namespace syncbn::detail
