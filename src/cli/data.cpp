#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "cli/commands.hpp"
#include "cli/find_data.hpp"
#include "core/console.hpp"
#include "core/text.hpp"
#include "data/catalog/download.hpp"

namespace syncbn::cli {
namespace {

namespace fs = std::filesystem;

std::vector<const RemoteDataset*> select(const std::vector<std::string>& kinds) {
  std::vector<const RemoteDataset*> selected;
  std::vector<std::string> names;
  for (const RemoteDataset& dataset : remote_datasets()) names.push_back(dataset.kind);
  for (const std::string& kind : kinds) {
    const auto at = std::find(names.begin(), names.end(), kind);
    if (at == names.end()) {
      throw Error(fmt::format("unknown data set '{}'{}", kind, did_you_mean(kind, names, "; see syncbn data list")),
                  ExitCode::usage);
    }
    selected.push_back(&remote_datasets()[at - names.begin()]);
  }
  if (kinds.empty()) {
    for (const RemoteDataset& dataset : remote_datasets()) selected.push_back(&dataset);
  }
  return selected;
}

std::string root_of(const DataOptions& options) {
  return options.path.empty() ? data_root() : options.path;
}

/// Shows how far a download is: in place on a terminal, at its end elsewhere.
class DownloadProgress {
 public:
  explicit DownloadProgress(std::string name) : name_(std::move(name)), terminal_(::isatty(STDERR_FILENO) == 1) {}
  void update(std::uint64_t done, std::uint64_t total) {
    done_ = done;
    const int percent = total == 0 ? 0 : static_cast<int>(100 * done / total);
    if (!terminal_ || percent == shown_) return;
    write_stderr(fmt::format("\rsyncbn: {} {} %", name_, percent));
    shown_ = percent;
  }
  void finish() const {
    write_stderr(fmt::format("{}syncbn: {} done, {:.1f} MiB\n", terminal_ ? "\r" : "", name_,
                             static_cast<double>(done_) / (1 << 20)));
  }

 private:
  std::string name_;
  bool terminal_;
  int shown_ = -1;
  std::uint64_t done_ = 0;
};

void get(const RemoteDataset& dataset, const std::string& folder) {
  for (const RemoteFile& file : dataset.files) {
    std::string reason;
    if (check(dataset, file, folder, &reason) == FileState::ok) {
      write_stderr(fmt::format("syncbn: {}/{} is there already\n", folder, file.name));
      continue;
    }
    DownloadProgress progress(file.name);
    download(file, folder, [&](std::uint64_t done, std::uint64_t total) { progress.update(done, total); });
    progress.finish();
  }
  fmt::print("{}  {}\n", dataset.kind, folder);
}

/// True if every file is as it should be. A set of which nothing is there counts as whole unless it was asked for.
bool check_set(const RemoteDataset& dataset, const std::string& folder, bool asked_for) {
  std::vector<std::string> lines;
  std::size_t ok = 0, missing = 0;
  for (const RemoteFile& file : dataset.files) {
    std::string reason;
    const FileState state = check(dataset, file, folder, &reason);
    ok += state == FileState::ok;
    missing += state == FileState::missing;
    const char* word = state == FileState::ok ? "ok" : state == FileState::missing ? "missing" : "altered";
    lines.push_back(fmt::format("{:<14} {:<8} {}/{}{}", dataset.kind, word, folder, file.name,
                                reason.empty() ? "" : " (" + reason + ")"));
  }
  if (missing == dataset.files.size() && !asked_for) {
    fmt::print("{:<14} not here (syncbn data get {})\n", dataset.kind, dataset.kind);
    return true;
  }
  for (const std::string& line : lines) fmt::print("{}\n", line);
  return ok == dataset.files.size();
}

}  // namespace

ExitCode run_data_list(const DataOptions& options) {
  for (const RemoteDataset* dataset : select(options.kinds)) {
    const std::optional<std::string> folder = find_data(dataset->kind, options.path);
    fmt::print("{:<14} {}\n{:<14} {}\n", dataset->kind, dataset->about, "",
               folder ? "in " + *folder : fmt::format("not here (syncbn data get {})", dataset->kind));
  }
  fmt::print("{:<14} generated images, 3 x 32 x 32, 10 classes; always there\n", "builtin");
  return ExitCode::ok;
}

ExitCode run_data_get(const DataOptions& options) {
  for (const RemoteDataset* dataset : select(options.kinds)) {
    get(*dataset, (fs::path(root_of(options)) / dataset->folder).string());
  }
  return ExitCode::ok;
}

ExitCode run_data_check(const DataOptions& options) {
  if (!options.path.empty() && !fs::is_directory(options.path))
    throw Error(fmt::format("{} is no folder; --path names that of the data sets", options.path), ExitCode::bad_data);
  bool whole = true;
  for (const RemoteDataset* dataset : select(options.kinds)) {
    const std::string fallback = (fs::path(root_of(options)) / dataset->folder).string();
    const std::string folder = find_data(dataset->kind, options.path).value_or(fallback);
    whole &= check_set(*dataset, folder, !options.kinds.empty());
  }
  return whole ? ExitCode::ok : ExitCode::bad_data;
}

}  // namespace syncbn::cli
