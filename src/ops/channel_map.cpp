#include "core/round_up.hpp"
#include "ops/backend.hpp"

namespace syncbn::ops {

namespace {

constexpr std::size_t kWidest = 16;  // block size of the widest layout

}  // namespace

ChannelMap::ChannelMap(std::int64_t channels) {
  const std::size_t size = round_up(static_cast<std::size_t>(channels), kWidest);
  for (auto* exact : {&center, &scale, &shift}) exact->assign(size, 0.0);
  for (auto* rounded : {&center_f, &scale_f, &shift_f}) rounded->assign(size, 0.0f);
}

void ChannelMap::round() {
  for (std::size_t c = 0; c < center.size(); ++c) {
    center_f[c] = static_cast<float>(center[c]);
    scale_f[c] = static_cast<float>(scale[c]);
    // (x - center) * scale + shift = (x - center_f) * scale + (center_f - center) * scale + shift
    shift_f[c] = static_cast<float>(shift[c] + (double{center_f[c]} - center[c]) * scale[c]);
  }
}

GradientMap::GradientMap(std::int64_t channels) {
  const std::size_t size = round_up(static_cast<std::size_t>(channels), kWidest);
  for (auto* exact : {&p, &q, &r}) exact->assign(size, 0.0);
  for (auto* rounded : {&p_f, &q_f, &r_f}) rounded->assign(size, 0.0f);
}

void GradientMap::round(const ChannelMap& map) {
  for (std::size_t c = 0; c < p.size(); ++c) {
    p_f[c] = static_cast<float>(p[c]);
    q_f[c] = static_cast<float>(q[c]);
    r_f[c] = static_cast<float>(r[c] + (double{map.center_f[c]} - map.center[c]) * q[c]);
  }
}

}  // namespace syncbn::ops
