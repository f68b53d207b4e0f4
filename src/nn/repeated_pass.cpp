#include "nn/repeated_pass.hpp"

namespace syncbn {

RepeatedPass::RepeatedPass(std::string name, const ops::Device* device, int local_workers)
    : name_(std::move(name)), seen_(static_cast<std::size_t>(local_workers)) {
  if (!device) return;
  for (int i = 0; i < local_workers; ++i) queued_.push_back(device->make_mark());
  started_ = device->make_mark();
}

void RepeatedPass::gather(const ops::Device& first) const {
  for (const auto& mark : queued_) first.follow(*mark);
}

void RepeatedPass::run(const Worker& worker, const ops::Device& device, std::int64_t kind, const Tag& tag,
                       const std::function<void()>& queue_pass) {
  const auto local = static_cast<std::size_t>(worker.local_index());
  if (seen_[local].insert(kind).second) return queue_pass();
  const bool first = local == 0;
  device.set(*queued_[local]);
  worker.local_barrier(tag);
  if (first) {
    const std::unique_ptr<ops::Graph>& graph = graphs_[kind];
    capturing_ = !graph || !graph->valid();
    ops::within(&device, name_, [&] {
      gather(device);
      if (capturing_)
        device.begin_capture();
      else
        device.launch(*graph);
      device.set(*started_);
    });
  }
  worker.local_barrier(tag);
  if (!first) device.follow(*started_);
  if (!capturing_) return;
  queue_pass();
  device.set(*queued_[local]);
  worker.local_barrier(tag);
  if (first) {
    ops::within(&device, name_, [&] {
      gather(device);
      graphs_[kind] = device.end_capture();
      device.launch(*graphs_[kind]);
      device.set(*started_);
    });
  }
  worker.local_barrier(tag);
  if (!first) device.follow(*started_);
}

}  // namespace syncbn
