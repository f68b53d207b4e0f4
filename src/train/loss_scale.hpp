#pragma once

#include <map>
#include <string>

namespace syncbn {

/// Dynamic loss scaling (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2, with the constants of PyTorch's
/// GradScaler). Gradients are those of the loss times a power of two, which keeps small ones from vanishing in f16. An
/// update whose gradient is not finite is left out and halves the scale; 2000 others in a row double it. Running
/// statistics, which come from the forward pass, are updated all the same. What it hangs on is the gradient summed over
/// all workers, which every rank has: so all decide alike, whoever computes what.
class LossScale {
 public:
  /// Not `active`: 1 for ever.
  explicit LossScale(bool active) : active_(active), value_(active ? 65536 : 1) {}

  bool active() const { return active_; }
  double value() const { return value_; }
  /// After each update: it has been done, because its gradient was finite, or left out.
  void update(bool finite);
  /// So small that it is not the scale that makes gradients infinite.
  bool exhausted() const { return active_ && value_ < 1e-4; }

  /// Part of a checkpoint.
  std::map<std::string, std::string> scalars() const;
  /// Values that are not there stay as they are. Throws Error(bad_data), which names one that cannot be.
  void restore(const std::map<std::string, std::string>& scalars);

 private:
  bool active_;
  double value_;
  int finite_updates_ = 0;  // since the last change
};

}  // namespace syncbn
