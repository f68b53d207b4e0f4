// l2 norms of parameters, of their gradients and of their updates.

#include <cmath>

#include "optim/flat_optimizer.hpp"
#include "train/probes/probe.hpp"

namespace syncbn {

namespace {

/// One row per parameter tensor and one of all together. weight: before the update; gradient: of the loss of all
/// samples, before clipping and without weight decay; update: the difference that the optimizer made; update_per_weight
/// their ratio. Every worker takes its share of each tensor.
class Norms : public Probe {
 public:
  explicit Norms(const ProbeContext& context) : context_(context) {
    const std::int64_t part = context.all.rank(), parts = context.all.size();
    for (int p = 0; p < static_cast<int>(context.model().parameters.size()); ++p) {
      const FlatRange all = context.state.parameter(p);
      const std::int64_t begin = all.count * part / parts, end = all.count * (part + 1) / parts;
      shares_.push_back({all.offset + begin, end - begin});
    }
  }

  void gradient_summed(std::span<const float>, std::span<const float> gradient) override {
    squares_.clear();
    old_.clear();
    for (const FlatRange& r : shares_) {
      const std::span<const float> values = context_.state.values(r);
      old_.insert(old_.end(), values.begin(), values.end());
      squares_.push_back(sum_of_squares(values));
      squares_.push_back(sum_of_squares(gradient.subspan(static_cast<std::size_t>(r.offset), values.size())));
      squares_.push_back(0);
    }
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    float* old = old_.data();
    for (std::size_t p = 0; p < shares_.size(); ++p) {
      const std::span<const float> now = context_.state.values(shares_[p]);
      for (std::size_t i = 0; i < now.size(); ++i) old[i] = now[i] - old[i];
      squares_[3 * p + 2] = sum_of_squares({old, now.size()});
      old += now.size();
    }
    context_.all.all_reduce(std::span(squares_), Reduce::sum, {"norms", update.step});
    if (context_.all.rank() != 0) return {};
    std::vector<Measurement> rows;
    double weight = 0, gradient = 0, change = 0;
    for (std::size_t p = 0; p < shares_.size(); ++p) {
      const double* s = squares_.data() + 3 * p;
      rows.push_back(row(context_.model().parameters[p].name, s[0], s[1], s[2]));
      weight += s[0];
      gradient += s[1];
      change += s[2];
    }
    rows.push_back(row("", weight, gradient, change));
    return rows;
  }

 private:
  static Measurement row(const std::string& name, double weight, double gradient, double update) {
    return {"norms",
            name,
            {{"weight", std::sqrt(weight)},
             {"gradient", std::sqrt(gradient)},
             {"update", std::sqrt(update)},
             {"update_per_weight", std::sqrt(update / weight)}}};
  }

  ProbeContext context_;
  std::vector<FlatRange> shares_;  // this worker's, by parameter
  std::vector<float> old_;         // the shares' values before the update
  std::vector<double> squares_;    // of weight, gradient and update, by parameter
};

}  // namespace

std::unique_ptr<Probe> make_norms_probe(const ProbeContext& context) {
  return std::make_unique<Norms>(context);
}

}  // namespace syncbn
