// Trainings of a few steps through the program, alone and under mpirun.

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/program.hpp"
#include "cli/tiny.hpp"

namespace syncbn::test {
namespace {

/// The lines about evaluations without their times.
std::string evaluations(const std::string& metrics) {
  std::istringstream in(metrics);
  std::string out;
  for (std::string line; std::getline(in, line);) {
    if (!contains(line, "\"kind\":\"eval\"")) continue;
    const std::size_t seconds = line.find("\"seconds\"");
    out += line.erase(seconds, line.find(',', seconds) - seconds) + "\n";
  }
  return out;
}

TEST(CliTrain, LeavesACompleteRunDirectory) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.syncbn({"train", "tiny.yaml", "optimizer.lr=0.05"});
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(contains(o.out, "test_accuracy")) << o.out;
  EXPECT_TRUE(contains(o.err, "syncbn: 3 workers on 1 rank")) << o.err;
  EXPECT_TRUE(contains(o.err, "global batch 12, bn_span 12")) << o.err;
  for (const char* name : {"config.yaml", "overrides.txt", "command.txt", "environment.json", "log.txt",
                           "metrics.jsonl", "summary.json", "final.safetensors"}) {
    EXPECT_TRUE(std::filesystem::exists(s.file("runs/tiny") / name)) << name;
  }
  EXPECT_TRUE(contains(s.read("runs/tiny/log.txt"), "3 workers on 1 rank"));

  const Outcome again = s.syncbn({"train", "tiny.yaml"});
  EXPECT_EQ(again.code, 2);
  EXPECT_EQ(again.err,
            "syncbn: runs/tiny is not empty; add --resume to go on with the run in it, or choose another output.dir\n");

  // The stored configuration, command and all, gives the same run.
  ASSERT_EQ(s.syncbn({"train", "runs/tiny/config.yaml", "--output", "again"}).code, 0);
  EXPECT_EQ(s.read("again/final.safetensors"), s.read("runs/tiny/final.safetensors"));

  const Outcome eval = s.syncbn({"eval", "runs/tiny"});
  EXPECT_EQ(eval.code, 0) << eval.err;
  EXPECT_TRUE(contains(eval.out, "samples   50")) << eval.out;
}

TEST(CliTrain, AnyNumberOfRanksGivesTheSameWeights) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const std::string statistics = "train.eval_statistics=[running, precise, batch]";
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "output.dir=alone", statistics}).code, 0);
  const std::string losses = evaluations(s.read("alone/metrics.jsonl"));
  EXPECT_TRUE(contains(losses, "accuracy_precise") && contains(losses, "loss_batch")) << losses;
  for (const int ranks : {1, 2, 3}) {
    const std::string dir = "ranks" + std::to_string(ranks);
    const Outcome o = s.mpirun(ranks, {"train", "tiny.yaml", "output.dir=" + dir, statistics});
    ASSERT_EQ(o.code, 0) << o.err;
    EXPECT_TRUE(contains(o.err, "3 workers on " + std::to_string(ranks) + " rank")) << o.err;
    EXPECT_EQ(s.read(dir + "/final.safetensors"), s.read("alone/final.safetensors")) << ranks << " ranks";
    EXPECT_EQ(evaluations(s.read(dir + "/metrics.jsonl")), losses) << ranks << " ranks";
  }
  const Outcome eval = s.mpirun(2, {"eval", "ranks2", "--split", "train"});
  EXPECT_EQ(eval.code, 0) << eval.err;
  EXPECT_TRUE(contains(eval.out, "samples   100")) << eval.out;
  EXPECT_TRUE(contains(eval.out, "precise statistics\naccuracy ")) << eval.out;
}

TEST(CliTrain, ResultsAreNamedByTheirImages) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.syncbn(
      {"train", "tiny.yaml", "train.steps=2", "train.eval_split=train", "train.eval_statistics=[running, batch]"});
  ASSERT_EQ(o.code, 0) << o.err;
  for (const char* name : {"train_accuracy  ", "best_train_accuracy ", "train_loss "}) {
    EXPECT_TRUE(contains(o.out, name)) << o.out;
  }
  const std::string summary = s.read("runs/tiny/summary.json");
  EXPECT_TRUE(contains(summary, "\"train_accuracy_batch\"")) << summary;
  EXPECT_FALSE(contains(o.out + summary, "test_")) << o.out << summary;
  const Outcome eval = s.syncbn({"eval", "runs/tiny"});
  EXPECT_TRUE(contains(eval.out, "samples   100")) << eval.out << eval.err;
  EXPECT_EQ(s.syncbn({"eval", "runs/tiny", "--split", "train"}).out, eval.out);
  const Outcome explain = s.syncbn({"explain", "runs/tiny"});
  EXPECT_EQ(explain.code, 0) << explain.err;
}

TEST(CliTrain, UnderMpirunOneRankSpeaks) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const auto count = [](const std::string& text, const std::string& part) {
    int n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
  };
  const Outcome unknown = s.mpirun(3, {"train", "tiny.yaml", "norm.grup=1"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_EQ(count(unknown.err, "syncbn: "), 1) << unknown.err;
  EXPECT_TRUE(contains(unknown.err, "did you mean 'norm.group'?")) << unknown.err;

  const Outcome misfit = s.mpirun(3, {"train", "tiny.yaml", "model.layers=[{type: relu}, {type: linear, out: 10}]"});
  EXPECT_EQ(misfit.code, 2) << misfit.err;
  EXPECT_EQ(count(misfit.err, "syncbn: "), 1) << misfit.err;
  EXPECT_TRUE(contains(misfit.err, "syncbn: command line: model.layers[1]: layer 'linear1' (linear)")) << misfit.err;

  const Outcome many = s.mpirun(4, {"train", "tiny.yaml"});
  EXPECT_EQ(many.code, 2);
  EXPECT_TRUE(contains(many.err, "workers = 3 but 4 ranks were started")) << many.err;

  const Outcome doctor = s.mpirun(2, {"doctor"});
  EXPECT_EQ(doctor.code, 0) << doctor.err;
  EXPECT_EQ(count(doctor.out, "MPI_THREAD_MULTIPLE granted"), 1) << doctor.out;

  const Outcome all = s.mpirun(2, {"train", "tiny.yaml", "train.steps=2", "--log-ranks"});
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_TRUE(contains(all.err, "syncbn: rank 1: 3 workers")) << all.err;
  EXPECT_TRUE(contains(s.read("runs/tiny/log.rank1.txt"), "3 workers on 2 ranks"));
}

TEST(CliTrain, StoppedBySignalAndResumedItEndsAsIfUndisturbed) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const auto command = [](const std::string& dir) {
    return std::vector<std::string>{"train", "tiny.yaml", "train.steps=200", "output.dir=" + dir};
  };
  ASSERT_EQ(s.syncbn(command("whole")).code, 0);
  for (const int signal : {SIGTERM, SIGUSR1, SIGHUP, SIGINT}) {
    const std::string dir = "stopped" + std::to_string(signal);
    const Outcome stopped = s.signalled(command(dir), dir + "/metrics.jsonl", signal);
    EXPECT_EQ(stopped.code, 75) << stopped.err;
    EXPECT_TRUE(contains(stopped.err, "--resume goes on")) << stopped.err;
    EXPECT_EQ(contains(stopped.err, "once more to stop at once"), signal == SIGINT) << stopped.err;
    EXPECT_FALSE(std::filesystem::exists(s.file(dir) / "final.safetensors"));
    std::vector<std::string> resume = command(dir);
    resume.push_back("--resume");
    const Outcome resumed = s.mpirun(2, resume);
    EXPECT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_EQ(s.read(dir + "/final.safetensors"), s.read("whole/final.safetensors"));
  }
}

TEST(CliTrain, UnderNohupALostTerminalChangesNothing) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  s.write("start.sh", R"(trap '' HUP
"$1" train tiny.yaml train.steps=200 & pid=$!
for i in $(seq 6000); do [ -e runs/tiny/metrics.jsonl ] && break; sleep 0.005; done
kill -HUP $pid; wait $pid)");
  const Outcome o = s.shell("start.sh");
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(std::filesystem::exists(s.file("runs/tiny/final.safetensors")));
}

TEST(CliTrain, TheSecondInterruptStopsAtOnce) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const Outcome o = s.signalled({"train", "tiny.yaml", "train.accumulate=65536", "train.steps=1"},
                                "runs/tiny/environment.json", SIGINT, 2);
  EXPECT_EQ(o.code, 128 + SIGINT) << o.err;
  EXPECT_TRUE(contains(o.err, "stopping after this step")) << o.err;
}

TEST(CliTrain, GoesOnWithAsManyWorkersAndSaysWhereItBegins) {
  const Sandbox s;
  std::string automatic = kTiny;
  automatic.replace(automatic.find("workers: 3"), 10, "workers: auto");
  s.write("tiny.yaml", automatic);
  const Outcome first = s.syncbn({"train", "tiny.yaml", "workers=5", "--resume"});
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(contains(first.err, "nothing to resume in runs/tiny: starting at step 0\n")) << first.err;
  EXPECT_TRUE(contains(s.read("runs/tiny/log.txt"), "nothing to resume")) << s.read("runs/tiny/log.txt");

  // Nothing is left to do, and nothing better to tell.
  const std::string summary = s.read("runs/tiny/summary.json");
  const Outcome finished = s.syncbn({"train", "tiny.yaml", "--resume"});
  ASSERT_EQ(finished.code, 0) << finished.err;
  EXPECT_TRUE(contains(finished.err, "5 workers on 1 rank")) << finished.err;
  EXPECT_EQ(s.read("runs/tiny/summary.json"), summary);

  std::filesystem::remove(s.file("runs/tiny/final.safetensors"));
  const Outcome eval = s.syncbn({"eval", "runs/tiny"});
  EXPECT_EQ(eval.code, 65);
  EXPECT_EQ(eval.err,
            "syncbn: runs/tiny has no final.safetensors, because its training has not ended; take its newest "
            "checkpoint as weights: runs/tiny/checkpoints/step-000000010\n");
  EXPECT_EQ(s.syncbn({"eval", "runs/tiny", "--weights", "runs/tiny/checkpoints/step-000000010"}).code, 0);

  s.write("runs/tiny/checkpoints/step-000000010/model.safetensors", "damaged");
  const Outcome damaged = s.syncbn({"train", "tiny.yaml", "--resume"});
  ASSERT_EQ(damaged.code, 0) << damaged.err;
  for (const std::string& text : {damaged.err, s.read("runs/tiny/log.txt")}) {
    EXPECT_TRUE(contains(text, "step-000000010/model.safetensors: ")) << text;
    EXPECT_TRUE(contains(text, "; going back to the one before\n")) << text;
  }
  // With none left that can be read nothing is removed: another disk or program may read it.
  for (const auto& folder : std::filesystem::directory_iterator(s.file("runs/tiny/checkpoints")))
    std::ofstream(folder.path() / "model.safetensors") << "damaged";
  const std::string metrics = s.read("runs/tiny/metrics.jsonl");
  for (const Outcome& none :
       {s.syncbn({"train", "tiny.yaml", "--resume"}), s.mpirun(2, {"train", "tiny.yaml", "--resume"})}) {
    EXPECT_EQ(none.code, 65) << none.err;
    EXPECT_TRUE(contains(none.err, "no checkpoint in runs/tiny can be read, the newest because: ")) << none.err;
  }
  EXPECT_EQ(s.read("runs/tiny/metrics.jsonl"), metrics);
  EXPECT_TRUE(std::filesystem::exists(s.file("runs/tiny/checkpoints/step-000000010/manifest.json")));
}

TEST(CliTrain, NamesWhatIsMissing) {
  const Sandbox s;
  const Outcome data = s.syncbn({"train", "mnist_lenet"});
  EXPECT_EQ(data.code, 65) << data.err;
  EXPECT_TRUE(contains(data.err, "syncbn data get mnist")) << data.err;
  const Outcome weights = s.syncbn({"eval", "quickstart"});
  EXPECT_EQ(weights.code, 2);
  EXPECT_TRUE(contains(weights.err, "--weights FILE")) << weights.err;
  const Outcome nothing = s.syncbn({"eval", "nope"});
  EXPECT_EQ(nothing.code, 2);
  EXPECT_TRUE(contains(nothing.err, "nope: no such file")) << nothing.err;
}

TEST(CliTrain, AMachineOfRanksIsAGroupWhateverItsHostName) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  const auto command = [](const std::string& group, const std::string& dir) {
    return std::vector<std::string>{"train", "tiny.yaml", "workers=4", "norm.group=" + group, "output.dir=" + dir};
  };
  // Two ranks that play two machines of one name.
  const std::vector<std::string> machines = {"SYNCBN_RANKS_PER_NODE=1"};
  const Outcome node = s.mpirun(2, command("node", "node"), machines);
  ASSERT_EQ(node.code, 0) << node.err;
  EXPECT_TRUE(contains(node.err, "results depend on how the ranks lie on machines")) << node.err;
  ASSERT_EQ(s.syncbn(command("2", "pairs")).code, 0);
  EXPECT_EQ(s.read("node/final.safetensors"), s.read("pairs/final.safetensors"));

  std::vector<std::string> resume = command("node", "node");
  resume.push_back("--resume");
  EXPECT_EQ(s.mpirun(2, resume, machines).code, 0);
  const Outcome elsewhere = s.mpirun(2, resume);
  EXPECT_EQ(elsewhere.code, 2);
  EXPECT_TRUE(contains(elsewhere.err, "among 2+2 workers, which would now be 4")) << elsewhere.err;
}

TEST(CliTrain, StartsFromStoredWeights) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  ASSERT_EQ(s.syncbn({"train", "tiny.yaml", "output.dir=first"}).code, 0);
  const auto from = [](const std::string& weights) {
    return std::vector<std::string>{"train",          "tiny.yaml",       "output.dir=second",       "train.steps=1",
                                    "optimizer.lr=0", "norm.momentum=0", "model.weights=" + weights};
  };
  // A step without effect leaves what was read, but for the count of batches.
  ASSERT_EQ(s.mpirun(2, from("first/final.safetensors")).code, 0);
  const Outcome before = s.syncbn({"eval", "first"}), after = s.syncbn({"eval", "second"});
  EXPECT_EQ(before.code, 0) << before.err;
  EXPECT_EQ(before.out, after.out);

  std::vector<std::string> other = from("first/final.safetensors");
  other.insert(other.end(), {"output.dir=third", "data.kind=builtin", "model.weights_except=[\"linear4.*\"]"});
  EXPECT_EQ(s.syncbn(other).code, 0);
  EXPECT_NE(s.syncbn({"eval", "third"}).out, before.out);
  other.back() = "model.weights_except=[\"head.*\"]";
  other.push_back("output.dir=fourth");
  const Outcome idle = s.mpirun(2, other);
  EXPECT_EQ(idle.code, 2);
  EXPECT_TRUE(contains(idle.err, "no tensor of the model or the weights matches 'head.*'")) << idle.err;
  std::vector<std::string> absent = from("nowhere");
  absent.push_back("output.dir=fifth");
  const Outcome missing = s.mpirun(2, absent);
  EXPECT_NE(missing.code, 0);
  EXPECT_TRUE(contains(missing.err, "model.weights: nowhere: No such file or directory: name the folder"))
      << missing.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("fifth")));
  // Patterns may overlap, and leave out what only the file has. A run's folder stands for its weights.
  std::vector<std::string> less = from("first");
  std::erase(less, "norm.momentum=0");
  less.insert(less.end(), {"output.dir=sixth", "norm.track_running_stats=false",
                           "model.weights_except=[\"*running*\", \"*.running_*\", \"*tracked\"]"});
  const Outcome left_out = s.syncbn(less);
  EXPECT_EQ(left_out.code, 0) << left_out.err;
  const Outcome unread = s.syncbn({"eval", "first", "train.precise_samples=4"});
  EXPECT_EQ(unread.code, 2);
  EXPECT_TRUE(contains(unread.err, "train.precise_samples: only read with")) << unread.err;
  const Outcome leftover = s.syncbn({"eval", "first", "norm.type=none"});
  EXPECT_EQ(leftover.code, 65);
  EXPECT_TRUE(contains(leftover.err, "first/final.safetensors: tensor 'batch_norm1.bias' has no place in this model"))
      << leftover.err;
  std::string file = s.read("first/final.safetensors");
  file.replace(file.size() - 4, 4, std::string("\0\0\xc0\x7f", 4));  // NaN
  s.write("nan.safetensors", file);
  const std::string nan = "nan.safetensors: tensor linear4.weight holds nan";
  std::vector<std::string> ill = from("nan.safetensors");
  ill.push_back("output.dir=seventh");
  for (const Outcome& o : {s.mpirun(2, {"eval", "first", "--weights", "nan.safetensors"}), s.syncbn(ill)}) {
    EXPECT_EQ(o.code, 65);
    EXPECT_TRUE(contains(o.err, nan)) << o.err;
  }
}

TEST(CliTrain, ALastBatchWithoutVarianceIsRefusedAtTheStart) {
  const Sandbox s;
  s.write("mlp.yaml",
          "{workers: 4, batch_per_worker: 2, norm: {group: 1}, model: {name: mlp, hidden: [8]}, train: {epochs: 1}, "
          "data: {kind: builtin, train_limit: 100, test_limit: 50}}");
  const Outcome poor = s.syncbn({"train", "mlp.yaml"});
  EXPECT_EQ(poor.code, 2) << poor.err;
  EXPECT_TRUE(contains(poor.err, "data.drop_last=true")) << poor.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("runs/mlp")));
  const Outcome explained = s.syncbn({"explain", "mlp.yaml"});
  EXPECT_EQ(explained.code, 2);
  EXPECT_EQ(explained.err, poor.err.substr(poor.err.find("syncbn: layer")));
  EXPECT_EQ(s.syncbn({"train", "mlp.yaml", "data.drop_last=true"}).code, 0);
  EXPECT_EQ(s.syncbn({"eval", "runs/mlp", "data.drop_last=false"}).code, 0);  // which normalizes by no batch
}

TEST(CliTrain, ACrashLeavesABacktrace) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  for (const auto& [signal, said] :
       {std::pair(SIGSEGV, "crashed: SIGSEGV; see "), std::pair(SIGBUS, "in use, or is /dev/shm full?); see ")}) {
    const Outcome o = s.signalled({"train", "tiny.yaml", "train.steps=100000"}, "runs/tiny/metrics.jsonl", signal);
    EXPECT_EQ(o.code, 128 + signal);
    EXPECT_TRUE(contains(o.err, said)) << o.err;
    EXPECT_TRUE(contains(o.err, "; see runs/tiny/crash-rank0.txt")) << o.err;
    EXPECT_TRUE(contains(s.read("runs/tiny/crash-rank0.txt"), "libsyncbn")) << s.read("runs/tiny/crash-rank0.txt");
    std::filesystem::remove_all(s.file("runs"));
  }
  // Too much to limit anything.
  s.write("limited",
          "ulimit -v 1000000000000000; \"$1\" train tiny.yaml train.steps=100000 & "
          "while [ ! -s runs/tiny/metrics.jsonl ]; do sleep 0.1; done; kill -SEGV $!; wait $!");
  const Outcome o = s.shell("limited");
  EXPECT_TRUE(contains(o.err, "SIGSEGV (is the memory that ulimit -v allows too little?); see runs")) << o.err;
}

TEST(CliTrain, RanksWithOtherArgumentsAreRefused) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  s.write("two.sh",
          "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
          "exec mpirun --oversubscribe -n 1 \"$1\" train tiny.yaml optimizer.lr=0.1 : "
          "-n 1 \"$1\" train tiny.yaml optimizer.lr=0.2\n");
  const Outcome o = s.shell("two.sh");
  EXPECT_EQ(o.code, 2);
  EXPECT_TRUE(contains(o.err, "syncbn: command line of rank 1 (")) << o.err;
  EXPECT_TRUE(contains(o.err, "line 3: 'optimizer.lr=0.2' against 'optimizer.lr=0.1'")) << o.err;
  EXPECT_FALSE(std::filesystem::exists(s.file("runs")));
}

#if defined(__x86_64__)
TEST(CliTrain, RanksWithOtherInstructionsAreRefused) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  s.write("study.yaml", "base: tiny.yaml\nset: {workers: 1, train.steps: 1}\nseeds: 2\n");
  s.write("two.sh",
          "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
          "for command in 'train tiny.yaml' 'study study.yaml'; do\n"
          "  mpirun --oversubscribe -n 1 \"$1\" $command : -n 1 env ONEDNN_MAX_CPU_ISA=AVX \"$1\" $command\n"
          "  echo code $?\n"
          "done\n");
  const Outcome o = s.shell("two.sh");
  EXPECT_EQ(o.out, "code 2\ncode 2\n") << o.err;
  const std::string said = "syncbn: instruction set of rank 1 (";
  EXPECT_NE(o.err.find(said), o.err.rfind(said)) << o.err;
  EXPECT_TRUE(contains(o.err, "ONEDNN_MAX_CPU_ISA=AVX2 in the environment of all ranks")) << o.err;
}

TEST(CliTrain, ResumingWithOtherInstructionsWarns) {
  const Sandbox s;
  s.write("tiny.yaml", kTiny);
  s.write(
      "thrice.sh",
      "set -e\n"
      "start() { ONEDNN_MAX_CPU_ISA=$1 \"$program\" train tiny.yaml train.steps=4 checkpoint.every=2 $2 > $1 2>&1; }\n"
      "program=$1\n"
      "start AVX2\n"
      "for isa in AVX2 AVX; do\n"
      "  rm -r runs/tiny/final.safetensors runs/tiny/summary.json runs/tiny/checkpoints/*4\n"
      "  start $isa --resume\n"
      "done\n");
  const Outcome o = s.shell("thrice.sh");
  ASSERT_EQ(o.code, 0) << o.err << s.read("AVX2") << s.read("AVX");
  EXPECT_TRUE(contains(s.read("AVX2"), "resumed at step 2 of 4")) << s.read("AVX2");
  EXPECT_FALSE(contains(s.read("AVX2"), "warning")) << s.read("AVX2");
  EXPECT_TRUE(contains(s.read("AVX"), "resumed at step 2 of 4")) << s.read("AVX");
  EXPECT_TRUE(contains(s.read("AVX"), "for avx2; here it is cpu: ")) << s.read("AVX");
}
#endif

}  // namespace
}  // namespace syncbn::test
