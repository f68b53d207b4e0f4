// What a program says about CUDA on machines that lack some part of it. Needs no device.

#include <gtest/gtest.h>
#include <stdlib.h>

#include "ops/backend.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::test {
namespace {

/// $SYNCBN_CUDA_MODULE for the length of a test.
class ModuleVariable {
 public:
  explicit ModuleVariable(const std::string& path) { ::setenv("SYNCBN_CUDA_MODULE", path.c_str(), 1); }
  ~ModuleVariable() { ::unsetenv("SYNCBN_CUDA_MODULE"); }
};

void expect_refusal(const std::string& reason) {
  const ops::Accelerator cuda = ops::probe_cuda();
  EXPECT_FALSE(cuda.usable);
  EXPECT_EQ(cuda.text, reason);
  try {
    ops::make_cuda_backend(0);
    FAIL() << "there is no CUDA here";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), "device: cuda: " + reason + ", or use device: cpu");
    EXPECT_EQ(error.code(), ExitCode::unavailable);
  }
}

TEST(Devices, SaysThatTheBuildHasNoCuda) {
  const ModuleVariable module("/nowhere/libsyncbn_cuda.so");
  expect_refusal(
      "this build has no CUDA backend (/nowhere/libsyncbn_cuda.so does not exist): build it where the CUDA toolkit "
      "(nvcc) and cuDNN are installed");
}

TEST(Devices, SaysThatTheModuleCannotBeOpened) {
  const TempDir dir;
  const std::string path = dir / "libsyncbn_cuda.so";
  spit(path, "not a library, though long enough to be looked at as one: it has no header of that kind");
  const ModuleVariable module(path);
  expect_refusal("the CUDA backend cannot be opened (" + path +
                 ": invalid ELF header): install the CUDA libraries it was built with");
}

TEST(Devices, SaysThatTheModuleIsOfAnotherVersion) {
  const ModuleVariable module(STAND_IN_OLD);
  expect_refusal(std::string("the CUDA backend ") + STAND_IN_OLD + " is of version 0.0.1, the program of " +
                 SYNCBN_VERSION + ": install both from one build");
}

TEST(Devices, PassesOnWhatTheModuleFindsMissing) {
  const ModuleVariable module(STAND_IN_LACKING);
  expect_refusal("there is no driver");
}

TEST(Devices, UsesTheModuleThatFindsADevice) {
  const ModuleVariable module(STAND_IN_READY);
  EXPECT_TRUE(ops::probe_cuda().usable);
  EXPECT_EQ(ops::probe_cuda().text, "a stand-in");
  EXPECT_NE(ops::make_cuda_backend(0), nullptr);
}

/// The module of this build, if there is one, on this machine, whatever that has ($SYNCBN_EXPECT_CUDA: a usable
/// device).
TEST(Devices, TheModuleOfThisBuildSaysWhatItFinds) {
  const ops::Accelerator cuda = ops::probe_cuda();
  EXPECT_EQ(cuda.text.find('\n'), std::string::npos);
  EXPECT_TRUE(cuda.usable || !std::getenv("SYNCBN_EXPECT_CUDA")) << cuda.text;
  if (cuda.usable) {
    EXPECT_NE(cuda.text.find("compute capability"), std::string::npos) << cuda.text;
    EXPECT_NE(cuda.text.find("cuDNN"), std::string::npos) << cuda.text;
  } else {
    EXPECT_GT(cuda.text.size(), 20U);
    EXPECT_NE(cuda.text.find(": "), std::string::npos) << "no advice in: " << cuda.text;
    EXPECT_EQ(cuda.text.find("unknown error"), std::string::npos) << cuda.text;
  }
}

}  // namespace
}  // namespace syncbn::test
