#pragma once

#include <map>
#include <string>

namespace syncbn {

/// Dynamic loss scaling (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2, with the constants of PyTorch's
/// GradScaler). Gradients are those of the loss times a power of two, which keeps small ones from vanishing in f16. An
/// update whose gradient is not finite is left out and halves the scale; 2000 others in a row double it. Running
/// statistics, which come from the forward pass, are updated all the same. All ranks take the same decisions, because
/// these depend only on the gradient summed over all workers, which every rank has.
class LossScale {
 public:
  /// If not `active`, the scale is always 1.
  explicit LossScale(bool active) : active_(active), value_(active ? 65536 : 1) {}

  bool active() const { return active_; }
  double value() const { return value_; }
  /// To be called after each update. `finite`: its gradient was, so that the update was made; else it was skipped.
  void update(bool finite);
  /// The scale is so small that it cannot be the reason for infinite gradients.
  bool exhausted() const { return active_ && value_ < 1e-4; }

  /// Part of a checkpoint.
  std::map<std::string, std::string> scalars() const;
  /// Missing values stay as they are. Throws Error(bad_data) naming a value that is invalid.
  void restore(const std::map<std::string, std::string>& scalars);

 private:
  bool active_;
  double value_;
  int finite_updates_ = 0;  // since the last change
};

}  // namespace syncbn
