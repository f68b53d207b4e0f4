#include "train/compute.hpp"

#include <algorithm>

namespace syncbn {

std::string describe_compute() {
  return ops::make_cpu_backend()->description();
}

std::string describe_cuda() {
  return ops::probe_cuda().text;
}

std::unique_ptr<ops::Backend> make_backend(const World& world, const std::string& device) {
  const auto here = world.hosts().begin() + world.rank();
  return ops::make_backend(device, static_cast<int>(std::count(world.hosts().begin(), here, *here)));
}

}  // namespace syncbn
