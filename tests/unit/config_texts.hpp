#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "syncbn/core/error.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn::test {

inline Config parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_config(yaml, "a.yaml", overrides);
}

/// The message, one line, of the usage error that this text causes; "" if it is accepted.
inline std::string refusal(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(yaml, overrides);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << "more than one line: " << e.what();
    return e.what();
  }
  return "";
}

}  // namespace syncbn::test
