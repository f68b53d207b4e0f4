// metrics.jsonl, at a resume, behind a byte that tells the step.

#include "fuzz/target.hpp"
#include "syncbn/train/config.hpp"
#include "train/storage/run_directory.hpp"

namespace syncbn::fuzz {

std::vector<std::string> seeds() {
  return {std::string("\5") + R"({"schema":1,"kind":"train","step":5,"epoch":0.5,"loss":0.7,"accuracy":0.6})" + "\n" +
          R"({"schema":1,"kind":"eval","step":6,"epoch":1,"loss":null,"accuracy":0.5})" + "\n{\"torn"};
}

void read(std::string_view input) {
  if (input.empty()) return;
  static RunDirectory run = RunDirectory::create(folder() + "/run", "seed: 1\n", {}, {"syncbn"});
  file("run/metrics.jsonl", input.substr(1));
  const std::int64_t step = static_cast<unsigned char>(input.front());
  const std::int64_t left = run.truncate_metrics(step);
  require(left <= step && run.truncate_metrics(step) == left, "the same again");
}

}  // namespace syncbn::fuzz
