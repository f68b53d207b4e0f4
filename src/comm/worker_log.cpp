#include "comm/worker_log.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

WorkerLog::WorkerLog(const Topology& topology)
    : topology_(topology), records_(static_cast<std::size_t>(topology.local().size())) {}

void WorkerLog::enter(int worker) {
  records_[worker].left.store(false);
  records_[worker].under_way.clear();
}

void WorkerLog::begin(int worker, const Channel* channel, const Header& header) {
  Record& record = records_[worker];
  record.under_way.emplace_back(channel, header);
  std::lock_guard lock(record.mutex);
  record.last = header;
}

void WorkerLog::end(int worker, const Channel* channel) {
  auto& under_way = records_[worker].under_way;
  const auto found = std::ranges::find(under_way, channel, &std::pair<const Channel*, Header>::first);
  if (found != under_way.end()) under_way.erase(found);
}

void WorkerLog::require_all_finished(int worker) const {
  const auto& under_way = records_[worker].under_way;
  if (under_way.empty()) return;
  throw Error(
      fmt::format("{} has left World::run's function with a collective under way at {}: call "
                  "finish_all_reduce() before it returns",
                  name(worker), detail::describe(under_way.front().second)));
}

std::string WorkerLog::describe(int worker) const {
  const Record& record = records_[worker];
  std::lock_guard lock(record.mutex);
  return record.last ? fmt::format("{} last seen at {}", name(worker), detail::describe(*record.last))
                     : name(worker) + " not seen yet";
}

std::string WorkerLog::name(int worker) const {
  return topology_.describe_worker(topology_.local().first + worker);
}

}  // namespace syncbn::detail
