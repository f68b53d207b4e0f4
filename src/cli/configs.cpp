#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "cli/commands.hpp"
#include "core/console.hpp"
#include "core/text.hpp"
#include "study/study.hpp"
#include "train/config/shipped.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn::cli {
namespace {

/// Configurations, then studies, which are named "study/NAME".
std::vector<ShippedConfig> everything() {
  std::vector<ShippedConfig> all = shipped_configs();
  for (const ShippedConfig& study : shipped_studies()) all.push_back({"study/" + study.name, study.text});
  return all;
}

ShippedConfig find(const std::string& name) {
  const std::vector<ShippedConfig> all = everything();
  if (const ShippedConfig* shipped = find_shipped(all, name)) return *shipped;
  const std::vector<std::string> names = names_of(all);
  const std::string study = shipped_study(name);
  const std::string hint =
      study.empty() ? did_you_mean(name, names, "; see syncbn configs list") : did_you_mean(study, names);
  throw Error(fmt::format("no shipped configuration '{}'{}", name, hint), ExitCode::usage);
}

/// The comment's first line.
std::string about(const ShippedConfig& config) {
  const std::string line = config.text.substr(0, config.text.find('\n'));
  return line.starts_with("# ") ? line.substr(2) : "";
}

}  // namespace

std::string shipped_study(const std::string& name) {
  const ShippedConfig* study = find_shipped(shipped_studies(), name);
  return study ? "study/" + study->name : "";
}

ExitCode run_configs_list() {
  std::size_t width = 0;
  for (const ShippedConfig& shipped : everything()) width = std::max(width, shipped.name.size());
  for (const ShippedConfig& shipped : everything()) {
    fmt::print("{:<{}}  {}\n", shipped.name, width, about(shipped));
  }
  return ExitCode::ok;
}

ExitCode run_configs_show(const std::string& name) {
  fmt::print("{}", find(name).text);
  return ExitCode::ok;
}

ExitCode run_configs_copy(const std::string& name, const std::string& file) {
  const ShippedConfig shipped = find(name);
  const bool study = name.starts_with("study/");
  const std::string path = file.empty() ? std::filesystem::path(shipped.name).filename().string() + ".yaml" : file;
  const int out = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (out < 0) {
    if (errno != EEXIST) throw_io_error("create", path, errno);
    throw Error(fmt::format("{} exists already; name another file", path), ExitCode::usage);
  }
  ::close(out);
  try {
    append_to_file(path, shipped.text);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
  write_stderr(fmt::format("syncbn: wrote {}; start it with: syncbn {} {}\n", path, study ? "study" : "train", path));
  return ExitCode::ok;
}

}  // namespace syncbn::cli
