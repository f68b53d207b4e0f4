#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

struct OptimizerOptions {
  std::string name = "sgd";                       ///< sgd, adagrad, adam, adamw, lars, lamb
  double momentum = 0.9;                          ///< sgd, lars
  bool nesterov = false;                          ///< sgd
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  ///< adam, adamw, lamb; eps of adagrad and lars too
  double weight_decay = 0;
  bool decay_norm_and_bias = false;  ///< whether weight decay (and LARS / LAMB scaling) covers gamma, beta and biases
  double trust_coefficient = 0.001;  ///< lars
};

/// A parameter's place in the flat buffers.
struct ParameterSlot {
  std::string name;
  std::int64_t offset = 0;  ///< in elements; a multiple of 16
  std::int64_t count = 0;
  bool norm_or_bias = false;
};

/// Updates one flat f32 parameter buffer from one flat gradient. Work is split into ranges of parameters, so that it
/// can be shared by the workers of a rank, or by those of all ranks that share parameters and state; each object has
/// its own count of updates. Results do not depend on the split. Sources: SGD as PyTorch's; Adagrad - Duchi et al.
/// 2011; Adam - Kingma & Ba 2015; AdamW - Loshchilov & Hutter 2019; LARS - You et al. 2017; LAMB - You et al. 2020.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Names of the state buffers ("momentum"; "exp_avg", "exp_avg_sq"; ...), each as long as the flat parameters.
  virtual std::vector<std::string> state_names() const = 0;
  /// A state buffer in CPU memory. If the state lies on a device, this is a copy: fetch_state() updates it from the
  /// device, send_state() must be called after changes. Both wait for the device.
  virtual std::span<float> state(int i) = 0;
  virtual void fetch_state() {}
  virtual void send_state() {}
  /// Number of updates made (bias correction); part of a checkpoint.
  virtual std::int64_t updates() const = 0;
  virtual void set_updates(std::int64_t n) = 0;
  /// Counts an update once all its parts are done. To be called by exactly one thread of each rank; skipped updates are
  /// not counted.
  virtual void count_update() = 0;
  /// Computes part `part` (from 0) of `parts` of the update: a fixed, balanced share of the parameters. Different parts
  /// may run at the same time on different threads. gradient is scaled by gradient_scale first (clipping). Throws
  /// Error(usage) if there is no such part.
  virtual void update(std::span<float> parameters, std::span<const float> gradient, double lr, double gradient_scale,
                      int part, int parts) = 0;
  /// Computes gradient_squares() of this optimizer's parameters.
  virtual void squares(std::span<const float> gradient, std::span<double> squares, int part, int parts) = 0;
};

/// Throws Error(usage) for unknown names and values out of range, with the nearest valid name.
void validate(const OptimizerOptions& options);

/// Allocates zeroed memory for `count` values, aligned to 64 bytes.
using StateMemory = std::function<std::shared_ptr<float>(std::int64_t count)>;

/// Makes an optimizer; validates the options. Slots ascend and do not overlap; padding between them is never touched.
/// `memory`: provides the memory of the state, which is not touched before the first use of state() or update(); by
/// default private memory of this process. Throws Error.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                          std::int64_t flat_size, const StateMemory& memory = {});

/// Computes the sum of squares of each parameter's gradient, f64, in a fixed order; each part (see above) writes its
/// own entries of `squares` (one per slot). Their sum in slot order is the squared global norm.
void gradient_squares(const std::vector<ParameterSlot>& slots, std::span<const float> gradient,
                      std::span<double> squares, int part, int parts);

}  // namespace syncbn
