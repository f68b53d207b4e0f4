#include "cli/run_path.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/check.hpp"
#include "train/experiment.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn::cli {

bool is_run(const std::string& path) {
  return path_exists(path + "/config.yaml");
}

Config load_run_or_config(const std::string& path, const std::vector<std::string>& overrides) {
  if (!is_run(path)) return load_config(path, overrides);
  const std::string file = path + "/config.yaml";
  std::vector<std::string> unread;
  Config config = load_config(file, overrides, {{"output.dir", path, file}}, &unread);
  for (const std::string& text : overrides) {
    const std::string key = text.substr(0, text.find('='));
    if (std::find(unread.begin(), unread.end(), key) == unread.end()) continue;
    throw Error(fmt::format("command line: {}: {}", key, detail::why_unread(key, config)), ExitCode::usage);
  }
  return config;
}

std::string run_path(const Config& config, const std::string& config_path) {
  constexpr std::string_view kName = "{name}";
  std::string path = config.output.dir;
  const std::string name = std::filesystem::path(config_path).stem().string();
  for (std::size_t at = path.find(kName); at != std::string::npos; at = path.find(kName, at + name.size())) {
    path.replace(at, kName.size(), name);
  }
  return path;
}

void require_utf8(const std::string& path, const std::string& key) {
  if (is_utf8(path)) return;
  throw Error(fmt::format("{} is not in UTF-8; choose another {}", path, key), ExitCode::usage);
}

std::string sizes_line(const Config& config, int ranks, int threads_per_rank) {
  const std::int64_t batch = config.batch_per_worker * config.workers;
  std::string span = "none";
  if (shares_statistics(config.norm.type)) {
    const int group = norm_group_size(config.workers, config.norm);
    span = group == 0 ? "all samples of a machine (so results depend on how the ranks lie on machines)"
                      : std::to_string(config.batch_per_worker * group);
  }
  std::string line =
      fmt::format("{} on {} ({} each), {} samples per worker, global batch {}", counted(config.workers, "worker"),
                  counted(ranks, "rank"), counted(threads_per_rank, "thread"), config.batch_per_worker, batch);
  if (config.train.accumulate > 1) {
    line += fmt::format(" x {} = {} per update", config.train.accumulate, batch * config.train.accumulate);
  }
  line += ", bn_span " + span;
  if (config.reduction == "native") line += ", native reduction (so results depend on the number of ranks)";
  return line;
}

}  // namespace syncbn::cli
