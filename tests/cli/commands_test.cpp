// Commands that need neither data nor training.

#include <gmock/gmock.h>

#include <algorithm>

#include "cli/program.hpp"

namespace syncbn::test {
namespace {

using testing::Test;

/// One line on stderr, nothing on stdout, the given exit code.
void expect_refusal(const Outcome& outcome, int code, const std::string& line) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, line + "\n");
}

TEST(Cli, RefusesUnknownWordsWithTheNearestOne) {
  const Sandbox s;
  expect_refusal(s.syncbn({"trian"}), 2, "syncbn: unknown command 'trian'; did you mean 'train'? (see syncbn --help)");
  expect_refusal(s.syncbn({"data", "gte"}), 2,
                 "syncbn: unknown command 'gte'; did you mean 'get'? (see syncbn data --help)");
  expect_refusal(s.syncbn({"train", "quickstart", "--resum"}), 2,
                 "syncbn: unknown option '--resum'; did you mean '--resume'? (see syncbn train --help)");
  expect_refusal(s.syncbn({}), 2, "syncbn: A subcommand is required (see syncbn --help)");
  expect_refusal(s.syncbn({"train"}), 2, "syncbn: CONFIG is required (see syncbn train --help)");
  expect_refusal(s.syncbn({"data", "check", "mnits"}), 2, "syncbn: unknown data set 'mnits'; did you mean 'mnist'?");
}

TEST(Cli, RefusesBadConfigurationsAndOverrides) {
  const Sandbox s;
  s.write("mine.yaml", "seed: 1\nnorm:\n  grup: all\n");
  expect_refusal(s.syncbn({"train", "mine.yaml"}), 2,
                 "syncbn: mine.yaml:3: unknown key 'norm.grup'; did you mean 'norm.group'?");
  expect_refusal(s.syncbn({"train", "quickstart", "norm.grup=1"}), 2,
                 "syncbn: command line: unknown key 'norm.grup'; did you mean 'norm.group'?");
  expect_refusal(s.syncbn({"explain", "quickstart", "norm.group=3"}), 2,
                 "syncbn: command line: norm.group: 3 does not divide workers = 8; possible are 1, 2, 4, 8");
  expect_refusal(s.syncbn({"train", "quickstart", "overlap=yes"}), 2,
                 "syncbn: command line: overlap: expected true or false, got 'yes'");
  expect_refusal(
      s.syncbn({"train", "quickstrat"}), 2,
      "syncbn: quickstrat: no such file, nor a shipped configuration of this name; did you mean 'quickstart'?");
}

TEST(Cli, RefusesOutputsThatCannotBe) {
  const Sandbox s;
  s.write("taken", "");
  for (const char* extra : {"--log-ranks", "--resume"}) {
    expect_refusal(s.syncbn({"train", "quickstart", "--output", "taken", extra}), 2,
                   "syncbn: taken is a file; choose another output.dir");
  }
  expect_refusal(s.syncbn({"train", "quickstart", "--output", "a", "output.dir=b"}), 2,
                 "syncbn: --output a and output.dir=b differ; give one of them");
  expect_refusal(s.syncbn({"study", "quick", "--output", "taken"}), 2,
                 "syncbn: taken is a file; choose another --output");
  expect_refusal(s.syncbn({"study", "quick", "--output", "lat\xe9"}), 2,
                 "syncbn: lat\xe9 is not in UTF-8; choose another --output");
  expect_refusal(s.syncbn({"train", "quickstart", "output.dir=lat\xe9"}), 2,
                 "syncbn: command line: 'output.dir=lat\xe9' is not in UTF-8; use other letters");
  s.write("lat\xe9.yaml", "seed: 1");
  expect_refusal(s.syncbn({"train", "lat\xe9.yaml"}), 2,
                 "syncbn: runs/lat\xe9 is not in UTF-8; choose another output.dir");
  for (const std::vector<std::string>& empty : {std::vector<std::string>{"output.dir="}, {"--output", ""}}) {
    std::vector<std::string> command = {"train", "quickstart"};
    command.insert(command.end(), empty.begin(), empty.end());
    expect_refusal(s.syncbn(command), 2, "syncbn: command line: output.dir: is empty; name the run directory");
  }
  s.write("bad.yaml", "base: quickstart\ntitle: lat\xe9\n");
  expect_refusal(s.syncbn({"study", "bad.yaml", "--dry-run"}), 2, "syncbn: bad.yaml: not in UTF-8; convert it");
}

TEST(Cli, AFolderDoesNotHideAShippedConfiguration) {
  const Sandbox s;
  std::filesystem::create_directory(s.file("quickstart"));
  EXPECT_EQ(s.syncbn({"explain", "quickstart"}).code, 0);
  EXPECT_EQ(s.syncbn({"study", "quick", "--dry-run"}).code, 0);
  expect_refusal(s.syncbn({"eval", "quickstart"}), 2,
                 "syncbn: quickstart is not a run directory, so the weights must be named: --weights FILE");
}

TEST(Cli, EveryHelpEndsInExamplesAndGoesToStdout) {
  const Sandbox s;
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{},
                                                                                       {"train"},
                                                                                       {"eval"},
                                                                                       {"explain"},
                                                                                       {"doctor"},
                                                                                       {"data"},
                                                                                       {"data", "list"},
                                                                                       {"data", "get"},
                                                                                       {"data", "check"},
                                                                                       {"configs"},
                                                                                       {"configs", "list"},
                                                                                       {"configs", "show"},
                                                                                       {"configs", "copy"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const Outcome help = s.syncbn(arguments);
    EXPECT_EQ(help.code, 0);
    EXPECT_TRUE(contains(help.out, "Examples:\n")) << help.out;
    EXPECT_EQ(help.err, "");
  }
  const Outcome train = s.syncbn({"train", "--help"});
  for (const char* part : {"norm.group (all)", "checkpoint.every (epoch)", "optimizer.lr (0.1)", "75 stopped"}) {
    EXPECT_TRUE(contains(train.out, part)) << part;
  }
  for (const char* part : {"  slope (0.01)", "default: 1, of a pool its kernel",
                           "\n  kernel        needed; conv2d, max_pool, avg_pool: width"}) {
    EXPECT_TRUE(contains(train.out, part)) << part;
  }
  const Outcome study = s.syncbn({"study", "--help"});
  for (const char* part : {"vary.zip", "repeat.max_seeds", "learning_rate.search_seed", "seeds (1)"}) {
    EXPECT_TRUE(contains(study.out, part)) << part;
  }
  EXPECT_TRUE(contains(s.syncbn({"data", "get", "--help"}).out, "SYNCBN_DATA_MIRROR"));
  EXPECT_TRUE(contains(s.syncbn({"train", "--help"}).out, "below 64 pixels"));
  EXPECT_TRUE(contains(s.syncbn({"train", "--help"}).out, "(f16, bf16, f32, f64)"));
  EXPECT_TRUE(contains(s.syncbn({"train", "--help"}).out, "the classes take turns"));
  EXPECT_TRUE(contains(s.syncbn({"study", "--help"}).out, "(train --resume goes on; study: the same command)"));
  EXPECT_TRUE(contains(s.syncbn({"doctor", "--help"}).out, "SYNCBN_CUDA_MODULE"));
  EXPECT_THAT(s.syncbn({"--version"}).out, testing::MatchesRegex("syncbn [0-9.]+ \\(build [0-9a-f]+\\)\n"));
}

TEST(Cli, ExplainsKnownNetworks) {
  const Sandbox s;
  const Outcome o = s.syncbn({"explain", "cifar10_resnet20", "--ranks", "2"});
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.err, "");
  for (const char* part :
       {"layer1.0.bn1", "layer2.0.downsample.0", "64 x 8 x 8", "parameters             272474", "8 workers on 2 ranks",
        "global batch 128", "bn_span 128", "statistics, forward    21 messages, 12.4 KiB", "--sync-bn"}) {
    EXPECT_TRUE(contains(o.out, part)) << part << " is not in\n" << o.out;
  }
  EXPECT_TRUE(contains(s.syncbn({"explain", "cifar10_resnet20", "norm.group=1"}).out, "statistics, forward    none"));
  expect_refusal(s.syncbn({"explain", "quickstart", "--ranks", "9"}), 2,
                 "syncbn: 8 workers cannot be spread over 9 ranks; every rank hosts at least one worker");
}

TEST(Cli, ExplainTakesFiguresThatMeanSomething) {
  const Sandbox s;
  for (const char* figure : {"nan", "1e308", "-1", "0", "inf"}) {
    expect_refusal(s.syncbn({"explain", "quickstart", "--sample-us", figure}), 2,
                   std::string("syncbn: --sample-us: expected a number from 1e-9 to 1e12, got '") + figure +
                       "' (see syncbn explain --help)");
  }
  for (const std::vector<std::string>& figure : {std::vector<std::string>{"--sample-us", "500"}, {"--threads", "4"}}) {
    const Outcome o = s.syncbn({"explain", "quickstart", figure[0], figure[1]});
    EXPECT_TRUE(contains(o.out, "estimated time of an update")) << o.out << o.err;
  }
  for (const char* figure : {"--sample-us", "--update-us", "--threads"}) {
    const Outcome o = s.syncbn({"explain", "quickstart", "--measure", figure, "2"});
    EXPECT_EQ(o.code, 2) << o.out;
    EXPECT_TRUE(contains(o.err, std::string(figure)) && contains(o.err, "--measure")) << o.err;
  }
  const Outcome one = s.syncbn({"explain", "quickstart", "train.steps=1"});
  EXPECT_FALSE(contains(one.out, " 1 messages")) << one.out;
}

TEST(Cli, OneRankDoesWhatNeedsNoRanks) {
  const Sandbox s;
  const Outcome show = s.mpirun(3, {"configs", "show", "quickstart"});
  EXPECT_EQ(show.code, 0) << show.err;
  EXPECT_EQ(show.out, s.syncbn({"configs", "show", "quickstart"}).out);
  EXPECT_EQ(s.mpirun(3, {"configs", "copy", "quickstart"}).code, 0);
}

TEST(Cli, ListsShowsAndCopiesConfigurations) {
  const Sandbox s;
  EXPECT_TRUE(contains(s.syncbn({"configs", "list"}).out, "quickstart"));
  const Outcome show = s.syncbn({"configs", "show", "quickstart"});
  EXPECT_TRUE(contains(show.out, "workers: 8"));
  EXPECT_EQ(s.syncbn({"configs", "copy", "quickstart"}).code, 0);
  EXPECT_EQ(s.read("quickstart.yaml"), show.out);
  EXPECT_EQ(s.syncbn({"configs", "copy", "quickstart", "mine.yaml"}).code, 0);
  EXPECT_EQ(s.syncbn({"explain", "mine.yaml"}).code, 0);
  s.write("quickstart.yaml", "mine");
  expect_refusal(s.syncbn({"configs", "copy", "quickstart"}), 2,
                 "syncbn: quickstart.yaml exists already; name another file");
  EXPECT_EQ(s.read("quickstart.yaml"), "mine");
  expect_refusal(s.syncbn({"configs", "show", "quickstrat"}), 2,
                 "syncbn: no shipped configuration 'quickstrat'; did you mean 'quickstart'?");
  expect_refusal(s.syncbn({"configs", "show", "quick"}), 2,
                 "syncbn: no shipped configuration 'quick'; did you mean 'study/quick'?");
  expect_refusal(s.syncbn({"train", "quick"}), 2,
                 "syncbn: quick: not a configuration; studies are started with: syncbn study study/quick");
  const Outcome nowhere = s.syncbn({"configs", "copy", "quickstart", "absent/mine.yaml"});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_TRUE(contains(nowhere.err, "create its folder, or choose another\n")) << nowhere.err;
}

TEST(Cli, ListsAndChecksDataSets) {
  const Sandbox s;
  const Outcome list = s.syncbn({"data", "list"});
  EXPECT_EQ(list.code, 0);
  for (const char* kind : {"mnist", "fashion-mnist", "cifar10", "cifar100", "builtin"}) {
    EXPECT_TRUE(contains(list.out, kind)) << kind;
  }
  EXPECT_EQ(s.syncbn({"data", "check"}).code, 0);  // nothing here, nothing wrong
  const Outcome missing = s.syncbn({"data", "check", "mnist"});
  EXPECT_EQ(missing.code, 65);
  EXPECT_TRUE(contains(missing.out, "missing"));
  std::filesystem::create_directories(s.file("sets/mnist"));
  s.write("sets/mnist/train-labels-idx1-ubyte.gz", "not a label");
  const Outcome altered = s.syncbn({"data", "check", "--path", "sets"});
  EXPECT_EQ(altered.code, 65);
  EXPECT_TRUE(contains(altered.out, "altered")) << altered.out;
  expect_refusal(s.syncbn({"data", "check", "--path", "stes"}), 65,
                 "syncbn: stes is no folder; --path names that of the data sets");
}

TEST(Cli, DoctorTellsWhatIsThere) {
  const Sandbox s;
  const Outcome o = s.syncbn({"doctor"});
  EXPECT_EQ(o.code, 0) << o.err;
  for (const char* part : {"Open MPI", "no launcher", "cores", "oneDNN", "CUDA", "data root", "264 B"}) {
    EXPECT_TRUE(contains(o.out, part)) << part << " is not in\n" << o.out;
  }
}

TEST(Cli, RefusesCudaWhereItIsMissing) {
  const Sandbox s;
  const Outcome o = s.syncbn({"train", "quickstart", "device=cuda"}, {"SYNCBN_CUDA_MODULE=/nowhere.so"});
  EXPECT_EQ(o.code, 69);
  EXPECT_TRUE(contains(o.err,
                       "syncbn: device: cuda: this build has no CUDA backend (/nowhere.so does not exist): build it "
                       "where the CUDA toolkit (nvcc) and cuDNN are installed, or use device: cpu\n"))
      << o.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("runs")));
}

TEST(Cli, StopsWhenMpiDoesNotSeeTheRanksOfTheLauncher) {
  const Sandbox s;
  const Outcome o = s.syncbn({"doctor"}, {"SLURM_STEP_NUM_TASKS=4", "SLURM_PROCID=0"});
  EXPECT_EQ(o.code, 69) << o.err;
  EXPECT_TRUE(contains(o.err, "srun --mpi=pmix -n 4 syncbn")) << o.err;
  // The other ranks of the same mistake leave without repeating it.
  const Outcome second = s.syncbn({"doctor"}, {"SLURM_STEP_NUM_TASKS=4", "SLURM_PROCID=1"});
  EXPECT_EQ(second.code, 69);
  EXPECT_EQ(second.err, "");
}

TEST(Cli, ReportsThatOutputCannotBeWritten) {
  const Sandbox s;
  s.write("full.sh", "exec \"$1\" configs show quickstart > /dev/full\n");
  const Outcome o = s.shell("full.sh");
  EXPECT_EQ(o.code, 1);
  EXPECT_EQ(o.err, "syncbn: cannot write to standard output\n");
  s.write("version.sh", "exec \"$1\" --version > /dev/full\n");
  EXPECT_EQ(s.shell("version.sh").code, 1);
  s.write("closed.sh", "exec \"$1\" --version >&-\n");
  EXPECT_EQ(s.shell("closed.sh").code, 1);
}

TEST(Cli, KeepsItsExitCodeWhereStandardErrorCannotBeWritten) {
  const Sandbox s;
  for (const std::string where : {"2> /dev/full", "2>&-", "<&- >&- 2>&-"}) {
    s.write("mute.sh", "exec \"$1\" train nosuch " + where + "\n");
    EXPECT_EQ(s.shell("mute.sh").code, 2) << where;
    s.write("mute.sh", "exec \"$1\" configs copy quickstart mine.yaml " + where + "\n");
    EXPECT_EQ(s.shell("mute.sh").code, 0) << where;
    EXPECT_TRUE(contains(s.read("mine.yaml"), "workers: 8"));
    EXPECT_FALSE(contains(s.read("mine.yaml"), "syncbn: wrote"));  // which goes nowhere, and not into the file
    std::filesystem::remove(s.file("mine.yaml"));
  }
}

}  // namespace
}  // namespace syncbn::test
