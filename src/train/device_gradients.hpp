#pragma once

#include <memory>
#include <vector>

#include "nn/layer.hpp"
#include "syncbn/comm/gradient_exchange.hpp"

namespace syncbn {

/// The gradients of a rank's workers on its device. The exchange's queue is that of the rank's backend, in which the
/// weights are updated as well.
class DeviceGradients final : public GradientMemory {
 public:
  /// The backend must outlive it.
  DeviceGradients(const ops::Backend& rank, int local_workers);
  /// The queue of a local worker; its device must stay until the worker's last call of the exchange.
  void attach(int local, const ops::Device& device) { workers_[static_cast<std::size_t>(local)] = &device; }

  void prepare(int marks, std::int64_t length) override;
  float* result() override { return result_.as<float>(); }
  void set(int mark, int queue) override { device(queue).set(at(mark)); }
  void follow(int mark, int queue) override { device(queue).follow(at(mark)); }
  bool passed(int mark) override { return at(mark).passed(); }
  void add(const float* left, const float* right, float* to, std::int64_t count, int queue) override {
    device(queue).add(left, right, to, count);
  }
  void copy(const float* from, float* to, std::int64_t count, int queue) override {
    device(queue).copy(from, to, count);
  }
  void download(const float* from, float* to, std::int64_t count, int queue) override;
  void upload(const float* from, float* to, std::int64_t count, int queue) override;
  std::shared_ptr<void> pin(void* data, std::size_t bytes) override { return rank_.device()->pin(data, bytes); }
  float* scratch(std::int64_t count) override;
  std::string device_name() override { return rank_.device()->name(); }
  int device_index() override { return rank_.device()->index(); }
  void* native_queue() override { return rank_.device()->native_queue(); }

 private:
  const ops::Device& device(int queue) const {
    return queue == kExchange ? *rank_.device() : *workers_[static_cast<std::size_t>(queue)];
  }
  ops::Mark& at(int mark) { return *marks_[static_cast<std::size_t>(mark)]; }

  const ops::Backend& rank_;
  std::vector<const ops::Device*> workers_;
  std::vector<std::unique_ptr<ops::Mark>> marks_;
  ops::Memory result_, scratch_;
};

}  // namespace syncbn
