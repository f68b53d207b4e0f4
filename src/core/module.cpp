#include "core/module.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

namespace syncbn {
namespace {

/// The path of the module, by default beside the library that contains this function.
std::filesystem::path path_of(const ModuleOptions& options) {
  if (const char* given = std::getenv(options.variable)) return given;
  Dl_info here{};
  if (!::dladdr(reinterpret_cast<const void*>(&open_module), &here) || !here.dli_fname) return options.file;
  return std::filesystem::absolute(here.dli_fname).parent_path() / options.file;
}

}  // namespace

Module open_module(const ModuleOptions& options) {
  const std::filesystem::path path = path_of(options);
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return {nullptr,
            fmt::format("this build has no {} ({} does not exist){}", options.name, path.string(), options.if_missing)};
  Module module{::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), ""};
  const std::string name = options.article + options.name;
  if (!module.handle)
    return {nullptr, fmt::format("{} cannot be opened ({}){}", name, ::dlerror(), options.if_unusable)};
  const auto version = module.find<const char*()>(options.version);
  if (!version || version() != std::string(SYNCBN_VERSION))
    module.problem = fmt::format("{} {} is of version {}, the program of {}: install both from one build", name,
                                 path.string(), version ? version() : "unknown", SYNCBN_VERSION);
  return module;
}

}  // namespace syncbn
