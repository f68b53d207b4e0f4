#pragma once

#include <memory>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "nn/layer.hpp"

namespace syncbn {

/// The device of a rank, as needed for an exchange between its workers.
class RankDevice final : public ExchangeDevice {
 public:
  /// The exchange uses the queue of `exchange`, which must outlive this object.
  RankDevice(const ops::Backend& exchange, int local_workers);
  /// Sets the queue of a local worker. `device` must outlive the worker's last call of the exchange.
  void attach(int local, const ops::Device& device) { workers_[local] = &device; }

  void prepare_thread() override { exchange_.prepare_thread(); }
  int make_marks(int count) override;
  void* allocate(std::size_t bytes) override;
  std::shared_ptr<void> pin(void* data, std::size_t bytes) override { return exchange_.device()->pin(data, bytes); }
  std::string device_name() override { return exchange_.device()->name(); }
  int device_index() override { return exchange_.device()->index(); }
  void* native_queue() override { return exchange_.device()->native_queue(); }

  void set(int mark, int queue) override { device(queue).set(at(mark)); }
  void follow(int mark, int queue) override { device(queue).follow(at(mark)); }
  bool passed(int mark) override { return at(mark).passed(); }
  void copy(const void* from, void* to, std::size_t bytes, int queue) override { device(queue).copy(from, to, bytes); }
  void download(const void* from, void* to, std::size_t bytes, int queue) override {
    device(queue).start_download(from, to, bytes);
  }
  void upload(const void* from, void* to, std::size_t bytes, int queue) override {
    device(queue).start_upload(from, to, bytes);
  }
  void add(const float* left, const float* right, float* to, std::int64_t count, int queue) override {
    device(queue).add(left, right, to, count);
  }
  void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs, std::int64_t count,
                int queue) override {
    device(queue).add_rows(rows, stride, pairs, count);
  }

 private:
  const ops::Device& device(int queue) const { return queue == kExchange ? *exchange_.device() : *workers_[queue]; }
  ops::Mark& at(int mark) { return *marks_[mark]; }

  const ops::Backend& exchange_;
  std::vector<const ops::Device*> workers_;
  std::vector<std::unique_ptr<ops::Mark>> marks_;
  std::vector<ops::Memory> memory_;
};

}  // namespace syncbn
