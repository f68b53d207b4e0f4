// A configuration, then overrides, each behind a NUL byte.

#include "syncbn/train/config.hpp"
#include "fuzz/target.hpp"
#include "train/config/yaml_text.hpp"

namespace syncbn::fuzz {

std::vector<std::string> seeds() {
  std::vector<std::string> all = {joined({"seed: 3\n", "model.hidden=[7, 8]", "norm.type=group"}),
                                  joined({"", "probes.names=[norms, shift]", "model.name=mlp", "workers=auto"}),
                                  "a: &a [1, *a]\nb: !!str ~\n? [c]\n: {<<: *a}\n"};
  for (const ShippedConfig& shipped : shipped_configs()) all.push_back(shipped.text);
  return all;
}

void read(std::string_view input) {
  const auto [text, overrides] = text_and_overrides(input, 4);
  std::vector<std::string> unread;
  const std::string written = to_yaml(parse_config(text, "a.yaml", overrides, {}, &unread));
  require(to_yaml(parse_config(written, "again", {})) == written, "the same again");
}

}  // namespace syncbn::fuzz
