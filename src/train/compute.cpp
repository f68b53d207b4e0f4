#include "train/compute.hpp"

#include <algorithm>
#include <utility>

namespace syncbn {

std::string describe_compute() {
  return ops::make_cpu_backend()->description();
}

std::string describe_cuda() {
  return ops::probe_cuda().text;
}

ops::Precision precision_of(const Config& config) {
  if (config.precision == "tf32") return {DataType::f32, true};
  if (config.precision == "bfloat16") return {DataType::bf16, false};
  if (config.precision == "float16") return {DataType::f16, false};
  return {};
}

WorldOptions world_options(const Config& config) {
  WorldOptions options;
  options.workers = config.workers;
  options.threads = config.threads;
  options.reduction = config.reduction == "native" ? Reduction::native : Reduction::ordered;
  options.timeout_s = config.timeout_s;
  return options;
}

std::unique_ptr<ops::Backend> make_backend(const World& world, const Config& config, ops::Allocate allocate) {
  if (config.device == "cpu") return ops::make_cpu_backend(std::move(allocate));
  const auto here = world.nodes().begin() + world.rank();
  return ops::make_cuda_backend(static_cast<int>(std::count(world.nodes().begin(), here, *here)), precision_of(config));
}

}  // namespace syncbn
