#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace syncbn {

/// The device operations that an exchange between workers needs. Every local worker has a queue on the device, whose
/// work is done in order; so has the exchange (kExchange). A mark is a position in a queue. Calls for different queues
/// may come from different threads at once.
class ExchangeDevice {
 public:
  static constexpr int kExchange = -1;
  virtual ~ExchangeDevice() = default;

  /// To be called first on every thread that no worker runs on.
  virtual void prepare_thread() = 0;

  // ---- set-up, before any of the calls below ----
  /// Makes further marks; returns the number of the first.
  virtual int make_marks(int count) = 0;
  /// Allocates zeroed memory, which lives as long as this object.
  virtual void* allocate(std::size_t bytes) = 0;
  /// Speeds up copies from and to this CPU memory as long as the result lives, if that is possible.
  virtual std::shared_ptr<void> pin(void* data, std::size_t bytes) = 0;
  /// A name that differs between the devices of a host.
  virtual std::string device_name() = 0;
  virtual int device_index() = 0;
  /// The exchange's queue as CUDA knows it (a cudaStream_t).
  virtual void* native_queue() = 0;

  /// Places the mark behind everything queued in `queue` so far.
  virtual void set(int mark, int queue) = 0;
  /// Makes everything queued in `queue` from now on wait for the mark.
  virtual void follow(int mark, int queue) = 0;
  /// Whether the mark has been passed.
  virtual bool passed(int mark) = 0;

  virtual void copy(const void* from, void* to, std::size_t bytes, int queue) = 0;
  /// Copies to and from CPU memory, which must stay untouched until a mark set after the copy has been passed.
  virtual void download(const void* from, void* to, std::size_t bytes, int queue) = 0;
  virtual void upload(const void* from, void* to, std::size_t bytes, int queue) = 0;
  /// to = left + right; `to` may be one of them.
  virtual void add(const float* left, const float* right, float* to, std::int64_t count, int queue) = 0;
  /// For each pair in turn, row `first` += row `second`: the first `count` values of rows `stride` values apart.
  virtual void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
                        std::int64_t count, int queue) = 0;
};

/// Direct exchange between the devices of all ranks, in the order of the exchange's queue.
class DevicePeers {
 public:
  struct Transfer {
    int peer;  ///< a rank
    void* data;
    std::size_t bytes;
  };
  virtual ~DevicePeers() = default;
  /// Starts all transfers at once; between two ranks in the order given.
  virtual void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) = 0;
  /// values = sum over the ranks, in an order chosen by the library.
  virtual void all_reduce(float* values, std::int64_t count) = 0;
  /// Whether the latest request has been queued; only then may the next be made. Throws Error when another rank is
  /// lost.
  virtual bool queued() = 0;
  /// Aborts the current operations, so that the queue continues; no requests may follow.
  virtual void abandon() noexcept = 0;
};

}  // namespace syncbn
