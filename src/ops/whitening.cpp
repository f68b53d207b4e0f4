#include "ops/backend.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops {

const WhiteningKernels& Backend::whitening() const {
  throw Error("norm.type: whitening does not run on this device (" + description() + "); use device: cpu",
              ExitCode::unavailable);
}

}  // namespace syncbn::ops
