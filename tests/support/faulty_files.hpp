#pragma once

#include <fcntl.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/core/random.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {

/// Fails the k-th call (0-based), or all from then on.
class FailingFiles : public FileSystem {
 public:
  FailingFiles(int k, bool sticky, int error) : k_(k), sticky_(sticky), error_(error) {}
  bool failed() const { return calls_ > k_; }
  const std::string& first_failed_call() const { return first_failed_call_; }

  int open(const std::string& path, int flags, mode_t mode) override {
    return fails("open") ? -1 : FileSystem::open(path, flags, mode);
  }
  ssize_t write(int fd, const void* bytes, std::size_t count) override {
    if (!fails("write")) return FileSystem::write(fd, bytes, count);
    const ssize_t part = FileSystem::write(fd, bytes, count / 2);  // as a disk that fills up
    errno = error_;
    return part < 0 ? part : -1;
  }
  int fsync(int fd) override { return fails("fsync") ? -1 : FileSystem::fsync(fd); }
  int close(int fd) override {
    const int result = FileSystem::close(fd);
    return fails("close") ? -1 : result;
  }
  int rename(const std::string& from, const std::string& to) override {
    return fails("rename") ? -1 : FileSystem::rename(from, to);
  }
  int mkdir(const std::string& path) override { return fails("mkdir") ? -1 : FileSystem::mkdir(path); }
  int unlink(const std::string& path) override { return fails("unlink") ? -1 : FileSystem::unlink(path); }
  int rmdir(const std::string& path) override { return fails("rmdir") ? -1 : FileSystem::rmdir(path); }

 private:
  bool fails(const char* call) {
    const bool now = calls_ == k_ || (sticky_ && calls_ > k_);
    if (calls_ == k_) first_failed_call_ = call;
    ++calls_;
    if (now) errno = error_;
    return now;
  }

  int k_, calls_ = 0;
  bool sticky_;
  int error_;
  std::string first_failed_call_;
};

/// Does everything for real and remembers it, so that what a power failure could have left after any prefix of the
/// calls can be rebuilt elsewhere: data that was not synced is lost, torn or there, and of the names changed since the
/// folder's last sync any subset has reached the disk.
class RecordingFiles : public FileSystem {
 public:
  explicit RecordingFiles(std::string root) : root_(std::move(root)) {}
  std::size_t calls() const { return log_.size(); }

  int open(const std::string& path, int flags, mode_t mode) override {
    const int fd = FileSystem::open(path, flags, mode);
    if (fd >= 0) {
      open_[fd] = path;
      if (flags & O_CREAT) log_.push_back({Kind::create, path, "", ""});
    }
    return fd;
  }
  ssize_t write(int fd, const void* bytes, std::size_t count) override {
    log_.push_back({Kind::write, open_[fd], "", std::string(static_cast<const char*>(bytes), count)});
    return FileSystem::write(fd, bytes, count);
  }
  int fsync(int fd) override {
    log_.push_back({Kind::sync, open_[fd], "", ""});
    return FileSystem::fsync(fd);
  }
  int rename(const std::string& from, const std::string& to) override {
    log_.push_back({Kind::rename, from, to, ""});
    return FileSystem::rename(from, to);
  }
  int mkdir(const std::string& path) override {
    const int result = FileSystem::mkdir(path);
    if (result == 0) log_.push_back({Kind::mkdir, path, "", ""});
    return result;
  }
  int unlink(const std::string& path) override {
    log_.push_back({Kind::remove, path, "", ""});
    return FileSystem::unlink(path);
  }
  int rmdir(const std::string& path) override {
    log_.push_back({Kind::remove, path, "", ""});
    return FileSystem::rmdir(path);
  }

  /// Builds in `target` one state that a crash after `calls` calls could leave; `random` chooses which.
  void rebuild(std::size_t calls, Random& random, const std::string& target) const {
    Disk disk;
    disk.names[""] = disk.add(true);
    for (std::size_t i = 0; i < calls; ++i) disk.apply(log_[i], root_);
    disk.write_out(disk.root(), random, target);
  }

 private:
  enum class Kind { create, write, sync, rename, mkdir, remove };
  struct Call {
    Kind kind;
    std::string path, to, bytes;
  };
  struct Change {
    std::string name;
    int node = -1;        // what the name means afterwards; -1: nothing
    std::string removed;  // by a rename
  };
  struct Node {
    bool folder = false;
    std::string synced, now;          // of a file
    std::map<std::string, int> kept;  // of a folder, as synced
    std::vector<Change> pending;      // since then
  };
  struct Disk {
    std::vector<Node> nodes;
    std::map<std::string, int> names;  // current meaning of every path below the root

    int root() const { return names.at(""); }
    int add(bool folder) {
      nodes.push_back({});
      nodes.back().folder = folder;
      return static_cast<int>(nodes.size()) - 1;
    }
    Node& parent(const std::string& path) { return nodes[names.at(folder_of(path))]; }
    static std::string folder_of(const std::string& path) { return path.substr(0, path.find_last_of('/')); }
    static std::string leaf_of(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

    void apply(const Call& call, const std::string& root_path) {
      const std::string path = call.path.substr(root_path.size());
      switch (call.kind) {
        case Kind::create:
        case Kind::mkdir: {
          const int node = add(call.kind == Kind::mkdir);
          names[path] = node;
          parent(path).pending.push_back({leaf_of(path), node, ""});
          break;
        }
        case Kind::write:
          nodes[names.at(path)].now += call.bytes;
          break;
        case Kind::sync: {
          Node& node = nodes[names.at(path)];
          node.synced = node.now;
          for (const Change& change : node.pending) take(node.kept, change);
          node.pending.clear();
          break;
        }
        case Kind::rename: {
          const std::string to = call.to.substr(root_path.size());
          parent(to).pending.push_back({leaf_of(to), names.at(path), leaf_of(path)});
          names[to] = names.at(path);
          names.erase(path);
          break;
        }
        case Kind::remove:
          if (names.erase(path) == 1) parent(path).pending.push_back({leaf_of(path), -1, ""});
          break;
      }
    }

    static void take(std::map<std::string, int>& entries, const Change& change) {
      if (!change.removed.empty()) entries.erase(change.removed);
      if (change.node < 0) {
        entries.erase(change.name);
      } else {
        entries[change.name] = change.node;
      }
    }

    void write_out(int index, Random& random, const std::string& target) const {
      const Node& node = nodes[index];
      if (!node.folder) {
        std::string content = node.synced;
        const auto fate = random.below(3);
        if (fate == 1) content = node.now;
        if (fate == 2 && node.now != node.synced) content = node.now.substr(0, random.below(node.now.size() + 1));
        std::ofstream(target, std::ios::binary) << content;
        return;
      }
      std::filesystem::create_directories(target);
      std::map<std::string, int> entries = node.kept;
      const auto mode = random.below(3);  // none, all, or any subset of the pending changes
      for (const Change& change : node.pending) {
        if (mode == 1 || (mode == 2 && random.below(2) == 1)) take(entries, change);
      }
      for (const auto& [name, child] : entries) write_out(child, random, target + "/" + name);
    }
  };

  std::string root_;
  std::vector<Call> log_;
  std::map<int, std::string> open_;
};

}  // namespace syncbn
