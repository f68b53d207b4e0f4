#include "train/device_gradients.hpp"

namespace syncbn {

namespace {

std::size_t bytes_of(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

DeviceGradients::DeviceGradients(const ops::Backend& rank, int local_workers)
    : rank_(rank), workers_(static_cast<std::size_t>(local_workers)) {}

void DeviceGradients::prepare(int marks, std::int64_t length) {
  for (int i = 0; i < marks; ++i) marks_.push_back(rank_.device()->make_mark());
  result_ = rank_.allocate(bytes_of(length));
}

float* DeviceGradients::scratch(std::int64_t count) {
  scratch_ = rank_.allocate(bytes_of(count));
  return scratch_.as<float>();
}

void DeviceGradients::download(const float* from, float* to, std::int64_t count, int queue) {
  device(queue).start_download(from, to, bytes_of(count));
}

void DeviceGradients::upload(const float* from, float* to, std::int64_t count, int queue) {
  device(queue).start_upload(from, to, bytes_of(count));
}

}  // namespace syncbn
