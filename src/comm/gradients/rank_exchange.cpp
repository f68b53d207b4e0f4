#include "comm/gradients/rank_exchange.hpp"

#include <algorithm>
#include <utility>

#include "comm/remote_wait.hpp"

namespace syncbn::detail {

namespace {

constexpr int kGradientChannel = 1;

}  // namespace

RankExchange::RankExchange(RankContext& context, Gradients& gradients, std::span<const Slice> buckets)
    : context_(context),
      gradients_(gradients),
      buckets_(buckets.begin(), buckets.end()),
      transport_(context.transport().duplicate()),
      link_(gradients.extend(transport_->connect(kGradientChannel, context.topology().all()))),
      handed_over_(buckets.size()),
      thread_([this] { work(); }) {}

RankExchange::~RankExchange() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (context_.failed()) transport_->abandon();
}

void RankExchange::hand_over(int bucket, const Header& header) {
  {
    std::lock_guard lock(mutex_);
    handed_over_[bucket] = header;
  }
  changed_.notify_all();
}

bool RankExchange::exchanged(std::uint64_t round) const {
  return exchanged_.load(std::memory_order_acquire) >= round * buckets_.size();
}

void RankExchange::work() {
  try {
    gradients_.prepare_thread();
    const int count = std::max(1, static_cast<int>(buckets_.size()));
    for (int bucket = 0;; bucket = (bucket + 1) % count) {
      const std::optional<Header> header = take(bucket);
      if (!header) return;
      exchange(bucket, *header);
      if ((exchanged_.fetch_add(1, std::memory_order_acq_rel) + 1) % buckets_.size() == 0) context_.crew().notify();
    }
  } catch (...) {
    context_.fail(std::current_exception());  // wakes the workers that wait
    link_->give_up();
  }
}

/// Waits until the bucket has been handed over; nothing when the thread is to stop.
std::optional<Header> RankExchange::take(int bucket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stop_ || (!buckets_.empty() && handed_over_[bucket]); });
  return stop_ ? std::nullopt : std::exchange(handed_over_[bucket], std::nullopt);
}

void RankExchange::exchange(int bucket, const Header& header) {
  const std::int64_t begin = buckets_[bucket].begin;
  const auto place = [begin](float* values) { return reinterpret_cast<std::byte*>(values + begin); };
  std::vector<std::byte*> blocks;
  for (const int local : gradients_.rest()) blocks.push_back(place(gradients_.gradient(local)));
  Target result = gradients_.result();
  result.data += begin * static_cast<std::int64_t>(sizeof(float));
  link_->start(header, blocks, result);
  drive(*link_, context_, [&] { return context_.describe_rank_at(header); });
}

}  // namespace syncbn::detail
