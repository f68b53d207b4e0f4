#include "cli/log.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>
#include <mutex>

#include "core/console.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn::cli {
namespace {

class RunDirectorySink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  RunDirectorySink(std::string directory, const std::string& name)
      : marker_(directory + "/config.yaml"), path_(directory + "/" + name) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    held_.append(line.data(), line.size());
    flush_();
  }

  void flush_() override {
    std::error_code ignored;
    if (held_.empty() || !std::filesystem::exists(marker_, ignored)) return;
    try {
      if (!failed_) append_to_file(path_, held_);
    } catch (const Error& e) {  // a training needs no log
      failed_ = true;
      write_stderr(fmt::format("syncbn: going on without the log: {}\n", e.what()));
    }
    held_.clear();
  }

 private:
  std::string marker_, path_, held_;
  bool failed_ = false;
};

}  // namespace

void start_logging(int rank, bool all_ranks) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>("syncbn", sink);
  sink->set_pattern(all_ranks ? fmt::format("syncbn: rank {}: %v", rank) : "syncbn: %v");
  if (rank != 0 && !all_ranks) sink->set_level(spdlog::level::off);
  spdlog::set_default_logger(std::move(logger));
}

void log_to_run_directory(int rank, const std::string& run_dir) {
  auto sink = std::make_shared<RunDirectorySink>(run_dir, rank == 0 ? "log.txt" : fmt::format("log.rank{}.txt", rank));
  sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l: %v");
  spdlog::default_logger()->sinks().push_back(sink);
  spdlog::register_logger(std::make_shared<spdlog::logger>("run", sink));
}

void record_failure(const std::string& message) {
  if (const auto run = spdlog::get("run")) run->error(message);
}

void finish_logging() {
  if (const auto run = spdlog::get("run")) run->flush();
}

}  // namespace syncbn::cli
