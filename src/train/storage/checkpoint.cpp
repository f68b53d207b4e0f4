#include "train/storage/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <system_error>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/folder_lock.hpp"
#include "train/storage/manifest.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModel = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kManifest = "manifest.json";
constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifest;
  return Manifest::parse(read_text(path, kMaxManifestBytes), path);
}

std::optional<Manifest> committed_manifest(const std::string& folder) {
  try {
    return read_manifest(folder);
  } catch (const Error&) {
    return std::nullopt;
  }
}

Manifest::File describe(const std::vector<std::byte>& bytes) {
  return {bytes.size(), sha256(bytes)};
}

SafetensorsFile read_checked(const std::string& path, const Manifest::File& expected) {
  const std::vector<std::byte> bytes = read_file(path, kNoLimit);
  if (bytes.size() != expected.bytes) {
    throw Error(fmt::format("{}: {} bytes instead of {}: truncated or altered", path, bytes.size(), expected.bytes),
                ExitCode::bad_data);
  }
  if (sha256(bytes) != expected.sha256) {
    throw Error(fmt::format("{}: the content does not match the hash in {}: it was altered", path, kManifest),
                ExitCode::bad_data);
  }
  return SafetensorsFile::parse(bytes, path);
}

TrainingState load_folder(const std::string& folder) {
  const Manifest manifest = read_manifest(folder);
  if (manifest.files.size() != 2 || !manifest.files.contains(kModel) || !manifest.files.contains(kOptimizer)) {
    throw Error(fmt::format("{}/{}: lists other files than {} and {}", folder, kManifest, kModel, kOptimizer),
                ExitCode::bad_data);
  }
  TrainingState state;
  state.step = manifest.step;
  state.scalars = manifest.scalars;
  state.model = read_checked(folder + "/" + kModel, manifest.files.at(kModel));
  state.optimizer = read_checked(folder + "/" + kOptimizer, manifest.files.at(kOptimizer));
  return state;
}

std::optional<std::int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.size() < kPrefix.size() + 9) return std::nullopt;
  const auto step = parse_whole<std::int64_t>(std::string_view(name).substr(kPrefix.size()));
  return step && *step >= 0 ? step : std::nullopt;
}

/// Steps that have a folder, with or without a manifest.
std::vector<std::int64_t> folders_in(const std::string& path) {
  std::vector<std::int64_t> result;
  for (const std::string& name : names_in(path)) {
    if (const auto step = step_of(name)) result.push_back(*step);
  }
  std::sort(result.begin(), result.end());
  return result;
}

void unlink_if_present(FileSystem& files, const std::string& path) {
  if (path_exists(path) && files.unlink(path) < 0 && errno != ENOENT) throw_io_error("remove", path, errno);
}

}  // namespace

CheckpointStore::CheckpointStore(std::string dir, int keep_last, bool keep_best, std::shared_ptr<FileSystem> files,
                                 std::shared_ptr<const FolderLock> lock)
    : dir_(std::move(dir) + "/checkpoints"),
      keep_last_(keep_last),
      keep_best_(keep_best),
      files_(files ? std::move(files) : std::make_shared<FileSystem>()),
      lock_(std::move(lock)) {
  if (keep_last < 1) {
    throw Error(fmt::format("checkpoint.keep = {} must be at least 1", keep_last), ExitCode::usage);
  }
}

std::string CheckpointStore::folder_of(std::int64_t step) const {
  return fmt::format("{}/step-{:09}", dir_, step);
}

std::vector<std::int64_t> CheckpointStore::steps() const {
  std::vector<std::int64_t> result = folders_in(dir_);
  std::erase_if(result, [this](std::int64_t step) { return !path_exists(folder_of(step) + "/" + kManifest); });
  return result;
}

void CheckpointStore::save(const TrainingState& state, bool is_best, const std::vector<std::string>& logs) {
  require_own();
  remove_debris();
  const std::vector<std::byte> model = state.model.serialize(), optimizer = state.optimizer.serialize();
  Manifest manifest{state.step, is_best, {{kModel, describe(model)}, {kOptimizer, describe(optimizer)}}, state.scalars};

  // Rewriting files with their own content keeps an existing commit valid at every moment; other content must not meet
  // the old manifest.
  const std::string folder = folder_of(state.step);
  const auto old = committed_manifest(folder);
  const bool same = old && old->files == manifest.files;
  if (same) manifest.best |= old->best;
  const std::string text = manifest.text();
  if (text.size() > kMaxManifestBytes) throw Error("checkpoint: the scalars are too long for a manifest");

  try {
    for (const std::string& log : logs) sync_file(*files_, log);
    if (!same && path_exists(folder)) remove(folder);
    make_folder_durably(*files_, dir_);
    make_folder_durably(*files_, folder);
    write_file_durably(*files_, folder + "/" + kModel, model);
    write_file_durably(*files_, folder + "/" + kOptimizer, optimizer);
    require_own();
    write_file_durably(*files_, folder + "/" + kManifest, std::as_bytes(std::span(text)));
  } catch (const Error& e) {
    if (!same) {
      try {
        remove(folder);
      } catch (const Error&) {  // the disk may refuse this too; the next save tries again
      }
    }
    throw Error(fmt::format("checkpoint of step {} failed (earlier ones are untouched): {}", state.step, e.what()),
                e.code());
  }
  prune(state.step);
}

void CheckpointStore::require_own() const {
  if (lock_) lock_->require_held();
}

void CheckpointStore::remove(const std::string& folder) {
  require_own();
  // Without its manifest a checkpoint does not exist; that must be durable before its files go.
  if (path_exists(folder + "/" + kManifest)) {
    unlink_if_present(*files_, folder + "/" + kManifest);
    sync_folder(*files_, folder);
  }
  for (const char* name : {kModel, kOptimizer, kManifest}) {
    unlink_if_present(*files_, folder + "/" + name);
    unlink_if_present(*files_, folder + "/" + name + ".tmp");
  }
  // A folder in which somebody else keeps a file stays.
  if (files_->rmdir(folder) < 0 && errno != ENOENT && errno != ENOTEMPTY) throw_io_error("remove", folder, errno);
}

void CheckpointStore::remove_debris() {
  for (const std::int64_t step : folders_in(dir_)) {
    const std::string folder = folder_of(step);
    if (!path_exists(folder + "/" + kManifest)) {
      remove(folder);
      continue;
    }
    for (const char* name : {kModel, kOptimizer, kManifest}) {
      unlink_if_present(*files_, folder + "/" + name + ".tmp");
    }
  }
}

void CheckpointStore::prune(std::int64_t saved) {
  const std::vector<std::int64_t> all = steps();
  const auto newest = std::upper_bound(all.begin(), all.end(), saved);
  const std::int64_t best = keep_best_ ? best_of({all.begin(), newest}) : -1;
  const auto first_kept = newest - std::min<std::ptrdiff_t>(newest - all.begin(), keep_last_);
  for (auto it = all.begin(); it != all.end(); ++it) {
    const bool keep = (it >= first_kept && it < newest) || *it == best;
    if (!keep) remove(folder_of(*it));
  }
}

/// The last of these steps that is marked as the best; -1 if none is.
std::int64_t CheckpointStore::best_of(const std::vector<std::int64_t>& steps) const {
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const auto manifest = committed_manifest(folder_of(*step));
    if (manifest && manifest->best) return *step;
  }
  return -1;
}

std::optional<TrainingState> CheckpointStore::load_newest(
    std::vector<std::string>* refused, const std::function<void(const TrainingState&)>& check) const {
  const std::vector<std::int64_t> all = steps();
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    const auto refuse = [&](const std::string& why) -> void {
      throw Error(fmt::format("{}/{}: {}", folder_of(*step), kManifest, why), ExitCode::bad_data);
    };
    try {
      TrainingState state = load_folder(folder_of(*step));
      if (state.step != *step) refuse(fmt::format("written for step {}", state.step));
      try {
        if (check) check(state);
      } catch (const Error& e) {
        refuse(e.what());
      }
      return state;
    } catch (const Error& e) {
      if (refused) refused->push_back(e.what());
    }
  }
  return std::nullopt;
}

void CheckpointStore::require_ended(const std::string& run_dir) {
  if (path_exists(run_dir + "/final.safetensors")) return;
  const CheckpointStore checkpoints(run_dir, 1, false);
  const std::vector<std::int64_t> steps = checkpoints.steps();
  throw Error(
      fmt::format("{} has no final.safetensors, because its training has not ended; {}", run_dir,
                  steps.empty() ? "go on with it: train --resume"
                                : "take its newest checkpoint as weights: " + checkpoints.folder_of(steps.back())),
      ExitCode::bad_data);
}

std::string CheckpointStore::resolve(const std::string& path) {
  const std::string name = fs::path(path).filename().string(), run = parent_of(path);
  std::error_code error;
  if ((name != "best" && name != "last") || fs::exists(path, error) || !fs::exists(run + "/checkpoints", error))
    return path;
  const CheckpointStore checkpoints(run, 1, true);
  std::vector<std::int64_t> steps;
  std::int64_t step = -1;
  // While a run goes on, a listing may miss both the newest checkpoint, which is just being made, and the one before,
  // which is just being removed.
  for (int tries = 0; step < 0 && tries < 20; ++tries) {
    steps = checkpoints.steps();
    step = steps.empty() ? -1 : name == "last" ? steps.back() : checkpoints.best_of(steps);
  }
  if (step >= 0) return checkpoints.folder_of(step);
  throw Error(fmt::format("{} has no {}", run,
                          steps.empty() ? "checkpoint yet: go on with it: train --resume"
                                        : "checkpoint that is marked as the best (none is before the first evaluation, "
                                          "nor with checkpoint.keep_best: false); take another: " +
                                              checkpoints.folder_of(steps.back())),
              ExitCode::bad_data);
}

/// load() without resolve().
TrainingState CheckpointStore::load_weights(const std::string& path) {
  constexpr const char* kWhatHoldsThem =
      "name the folder of a run that has ended, a checkpoint in it, or a .safetensors file";
  std::error_code error;
  if (!fs::exists(path, error) && !error)
    throw Error(fmt::format("{}: No such file or directory: {}", path, kWhatHoldsThem), ExitCode::bad_data);
  if (fs::exists(path + "/checkpoints", error)) require_ended(path);
  if (fs::is_directory(path, error) && !path_exists(path + "/final.safetensors")) {
    if (path_exists(path + "/" + kManifest)) return load_folder(path);
    throw Error(fmt::format("{} holds no weights: {}", path, kWhatHoldsThem), ExitCode::bad_data);
  }
  TrainingState state;
  const std::string file = fs::is_directory(path, error) ? path + "/final.safetensors" : path;
  state.model = SafetensorsFile::parse(read_file(file, kNoLimit), file);
  return state;
}

TrainingState CheckpointStore::load(const std::string& named) {
  for (std::string path = resolve(named);;) {
    try {
      return load_weights(path);
    } catch (const Error&) {
      // If the run still goes on, another checkpoint may have become the newest or best, and this one be removed.
      const std::string now = resolve(named);
      if (now == path) throw;
      path = now;
    }
  }
}

}  // namespace syncbn
