#include "train/compute.hpp"

#include "nn/layer.hpp"

namespace syncbn {

std::string describe_compute() {
  return ops::make_cpu_backend()->description();
}

}  // namespace syncbn
