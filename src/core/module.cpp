#include "core/module.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

namespace syncbn {
namespace {

/// Beside the library that this function is in.
std::filesystem::path path_of(const ModuleOptions& options) {
  if (const char* given = std::getenv(options.variable)) return given;
  Dl_info here{};
  if (!::dladdr(reinterpret_cast<const void*>(&open_module), &here) || !here.dli_fname) return options.file;
  return std::filesystem::absolute(here.dli_fname).parent_path() / options.file;
}

}  // namespace

Module open_module(const ModuleOptions& o) {
  const std::filesystem::path path = path_of(o);
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return {nullptr, fmt::format("this build has no {} ({} does not exist){}", o.what, path.string(), o.build)};
  Module module{::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), ""};
  if (!module.library) return {nullptr, fmt::format("{} cannot be opened ({}){}", o.the, ::dlerror(), o.install)};
  const auto version = module.find<const char*()>(o.version);
  if (!version || version() != std::string(SYNCBN_VERSION))
    module.problem = fmt::format("{} {} is of version {}, the program of {}: install both from one build", o.the,
                                 path.string(), version ? version() : "unknown", SYNCBN_VERSION);
  return module;
}

}  // namespace syncbn
