#include "train/storage/scalars.hpp"

#include <fmt/format.h>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

const std::string& text_scalar(const Scalars& scalars, const std::string& name) {
  const auto found = scalars.find(name);
  if (found == scalars.end()) throw Error(fmt::format("there is no scalar '{}'", name), ExitCode::bad_data);
  return found->second;
}

std::int64_t whole_scalar(const Scalars& scalars, const std::string& name, std::int64_t least, std::int64_t most) {
  const auto value = parse_whole<std::int64_t>(text_scalar(scalars, name));
  if (!value || *value < least || *value > most) refuse_scalar(scalars, name);
  return *value;
}

double real_scalar(const Scalars& scalars, const std::string& name, double least, double most) {
  try {
    const double value = read_exact(text_scalar(scalars, name));
    if (value >= least && value <= most) return value;  // NaN is not
  } catch (const Error&) {
  }
  refuse_scalar(scalars, name);
}

void refuse_scalar(const Scalars& scalars, const std::string& name) {
  throw Error(fmt::format("the scalar '{}' cannot be '{}'", name, text_scalar(scalars, name)), ExitCode::bad_data);
}

}  // namespace syncbn
