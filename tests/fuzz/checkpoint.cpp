// What a checkpoint's manifest says of a run. The hash at its start is set right, or nothing would get past it.

#include "train/storage/checkpoint.hpp"
#include "fuzz/target.hpp"
#include "train/loss_scale.hpp"
#include "train/reporting/reporter.hpp"
#include "train/run_progress.hpp"
#include "train/storage/manifest.hpp"

namespace syncbn::fuzz {
namespace {

const std::string kOpening = "{\n  \"sha256\": \"";
constexpr std::size_t kDigits = 64;

}  // namespace

std::vector<std::string> seeds() {
  RunProgress progress;
  progress.data = "mnist 0123";
  progress.evaluations = {
      {.statistics = "running", .accuracy = 0.5, .loss = 2, .top5_accuracy = 0.75, .correct = 5, .samples = 10}};
  progress.of_probes["probe.batch_noise"] = "0x1p-3";
  Manifest manifest{
      .step = 17, .best = true, .files = {{"model.safetensors", {8, "0f"}}}, .scalars = progress.scalars()};
  for (const char* name : {"interval_loss_sum", "seconds", "loss_scale"}) manifest.scalars[name] = "0x1.8p+3";
  for (const char* name : {"interval_samples", "interval_correct", "loss_scale_finite_updates"})
    manifest.scalars[name] = "3";
  return {manifest.text().substr(kOpening.size() + kDigits)};
}

void read(std::string_view input) {
  const std::string body(input);
  const Manifest manifest = Manifest::parse(kOpening + sha256(std::as_bytes(std::span(body))) + body, "manifest.json");
  require(Manifest::parse(manifest.text(), "again").text() == manifest.text(), "the same again");
  TrainingState state;
  state.scalars = manifest.scalars;
  RunProgress::of(state, {"running", "precise"});
  LossScale(true).restore(state.scalars);
  Reporter::saved(state.scalars);
}

}  // namespace syncbn::fuzz
