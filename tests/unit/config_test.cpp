#include "syncbn/train/config.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "syncbn/core/error.hpp"
#include "unit/config_texts.hpp"

namespace syncbn {
namespace {

using test::parse;
using test::refusal;

TEST(Config, EmptyTextGivesDefaults) {
  EXPECT_EQ(to_yaml(parse("")), to_yaml(Config{}));
  EXPECT_EQ(to_yaml(parse("# only a comment\n")), to_yaml(Config{}));
  EXPECT_EQ(to_yaml(parse("norm:\n  # group: all\n")), to_yaml(Config{}));
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config c = parse(R"(
seed: 18446744073709551615
workers: 16
norm: {group: 4, momentum: 0.10, eps: 1e-3, affine: false}
model: {name: mlp, hidden: [100, 50], init: gaussian, init_std: .5}
schedule: {name: step, milestones: [0.5, 0.75]}
data: {kind: mnist, path: "/data/a: b"}
train: {eval_every: 500}
)");
  EXPECT_EQ(c.seed, 18446744073709551615u);
  EXPECT_EQ(c.workers, 16);
  EXPECT_EQ(c.norm.group, "4");
  EXPECT_EQ(c.norm.momentum, "0.1");  // one spelling per value
  EXPECT_EQ(c.norm.eps, 1e-3);
  EXPECT_FALSE(c.norm.affine);
  EXPECT_EQ(c.model.hidden, (std::vector<std::int64_t>{100, 50}));
  EXPECT_EQ(c.model.init_std, 0.5);
  EXPECT_EQ(c.schedule.milestones, (std::vector<double>{0.5, 0.75}));
  EXPECT_EQ(c.data.path, "/data/a: b");
  EXPECT_EQ(c.train.eval_every, "500");
  EXPECT_EQ(parse("workers: auto").workers, 0);
  EXPECT_EQ(parse("norm: {momentum: cumulative}").norm.momentum, "cumulative");
}

TEST(Config, NamesFileLineAndNearestKey) {
  EXPECT_EQ(refusal("seed: 1\nnorm:\n  grup: all\n"), "a.yaml:3: unknown key 'norm.grup'; did you mean 'norm.group'?");
  EXPECT_EQ(refusal("sede: 1"), "a.yaml:1: unknown key 'sede'; did you mean 'seed'?");
  EXPECT_EQ(refusal("lr: 1"), "a.yaml:1: unknown key 'lr'; did you mean 'optimizer.lr'?");
  for (const std::string key : {"batch_size: 1", "data: {batch_size: 1}"})
    EXPECT_NE(refusal(key).find("; did you mean 'batch_per_worker'?"), std::string::npos) << key;
  for (const std::string key : {"learning_rate: 1", "optimizer: {learning_rate: 1}"})
    EXPECT_NE(refusal(key).find("; did you mean 'optimizer.lr'?"), std::string::npos) << key;
  EXPECT_EQ(refusal("norms: {group: all}"), "a.yaml:1: unknown key 'norms'; did you mean 'norm'?");
  EXPECT_EQ(refusal("zzzzzzzz: 1"), "a.yaml:1: unknown key 'zzzzzzzz' (syncbn train --help lists all keys)");
  EXPECT_EQ(refusal("norm:\n  group:\n    x: 1\n"),
            "a.yaml:3: norm.group: expected an integer >= 1 and <= 65536, or all or node, got a section");
  EXPECT_EQ(refusal("norm: batch\n"), "a.yaml:1: 'norm' is a section; put its keys below it, indented");
  EXPECT_EQ(refusal("norm.group: all\n"),
            "a.yaml:1: 'norm.group' must be nested: write 'norm:' and 'group:' below it, indented");
}

TEST(Config, RefusesDuplicates) {
  EXPECT_EQ(refusal("seed: 1\nworkers: 2\nseed: 1\n"), "a.yaml:3: duplicate key 'seed' (first at a.yaml:1)");
  EXPECT_EQ(refusal("norm: {eps: 0, eps: 0}"), "a.yaml:1: duplicate key 'norm.eps' (first at a.yaml:1)");
  EXPECT_NE(refusal("norm: {eps: 0}\nnorm: {affine: true}"), "");
}

TEST(Config, RefusesWhatYamlWouldConvert) {
  EXPECT_EQ(refusal("overlap: yes"), "a.yaml:1: overlap: expected true or false, got 'yes'");
  EXPECT_EQ(refusal("workers: 010"), "a.yaml:1: workers: expected an integer >= 1 and <= 65536, or auto, got '010'");
  for (const char* bad : {"1_000", "0x10", "1e3", "+1", "1.0", "\"8\"", "''", "~", "1 2", "8 workers", "-1", "0",
                          "99999999999999999999", "[1]", "{a: 1}", "!!int 8", "on"}) {
    EXPECT_NE(refusal(std::string("workers: ") + bad), "") << bad;
  }
  for (const char* bad : {"nan", ".nan", "inf", ".inf", "0x1p3", "1e999", "-1", "--1", "1e", ".", "1,5", "00.1", "a"}) {
    EXPECT_NE(refusal(std::string("norm: {eps: ") + bad + "}"), "") << bad;
  }
  for (const char* bad : {"True", "TRUE", "y", "on", "1", "\"true\""}) {
    EXPECT_NE(refusal(std::string("overlap: ") + bad), "") << bad;
  }
}

TEST(Config, RefusesValuesOutOfRangeAndNamesTheNearestWord) {
  EXPECT_EQ(refusal("data: {kind: cifar}"),
            "a.yaml:1: data.kind: expected one of builtin, mnist, fashion-mnist, cifar10, cifar100, image-folder, got "
            "'cifar'; did you "
            "mean 'cifar10'?");
  EXPECT_EQ(refusal("norm: {momentum: 1.5}"),
            "a.yaml:1: norm.momentum: expected a number >= 0 and <= 1, or cumulative, got '1.5'");
  EXPECT_EQ(refusal("label_smoothing: 1"), "a.yaml:1: label_smoothing: expected a number >= 0 and < 1, got '1'");
  EXPECT_EQ(refusal("train: {epochs: 0}"),
            "a.yaml:1: train.epochs: expected a number > 0 and <= 1000000000000000, got '0'");
  EXPECT_EQ(refusal("norm: {eps: 0}"), "");
}

TEST(Config, ReadsProbes) {
  const Config c =
      parse("probes: {names: [norms, activations], layers: ['*.conv1', fc], every: 5}", {"probes.units=1"});
  EXPECT_EQ(c.probes.names, (std::vector<std::string>{"norms", "activations"}));
  EXPECT_EQ(c.probes.layers, (std::vector<std::string>{"*.conv1", "fc"}));
  EXPECT_EQ(c.probes.units, 1);
  EXPECT_EQ(to_yaml(parse(to_yaml(c))), to_yaml(c));
  EXPECT_EQ(parse("", {"probes.names=[all]", "probes.layers=[conv*, '*.fc']"}).probes.layers,
            (std::vector<std::string>{"conv*", "*.fc"}));
  EXPECT_EQ(refusal("probes: {names: [norm]}"),
            "a.yaml:1: probes.names: expected one of batch_noise, gradient_noise_scale, activations, norms, shift, "
            "all, got 'norm'; did you mean 'norms'?");
  EXPECT_NE(refusal("probes: {names: norms}"), "");
  EXPECT_NE(refusal("probes: {every: 0}"), "");
}

TEST(Config, NamesTheLineOfMalformedYaml) {
  EXPECT_EQ(refusal("seed: 1\nnorm: {eps: 1\nworkers: 2\n").rfind("a.yaml:", 0), 0u);
  EXPECT_NE(refusal("seed: 1\nnorm: {eps: 1\n").find("not valid YAML"), std::string::npos);
  EXPECT_NE(refusal("norm:\n\teps: 1\n").find("; it is indented with blanks"), std::string::npos);
  EXPECT_EQ(refusal("seed: 1\nnorm: {eps: 1\n").find("blanks"), std::string::npos);
  EXPECT_EQ(refusal("- 1\n- 2\n"), "a.yaml:1: expected 'key: value' lines");
  EXPECT_NE(refusal("seed: 1\n---\nseed: 2\n"), "");
  EXPECT_NE(refusal(std::string("seed: 1\0", 8)), "");
  EXPECT_NE(refusal("seed: *nobody\n"), "");
  EXPECT_NE(refusal("a: &a\n  <<: *a\n"), "");
  EXPECT_NE(refusal(std::string(2 << 20, '#')), "");
  EXPECT_NE(refusal("norm: " + std::string(100000, '[')), "");
}

TEST(Config, OverridesWinInTheirOrder) {
  EXPECT_EQ(parse("seed: 1", {"seed=2", "seed=3"}).seed, 3u);
  EXPECT_EQ(parse("", {"norm.group=4", "workers=8"}).norm.group, "4");
  EXPECT_EQ(parse("", {"schedule.name=step", "schedule.milestones=[10, 20]"}).schedule.milestones,
            (std::vector<double>{10, 20}));
  EXPECT_EQ(parse("", {"output.dir=/tmp/{name}: #1=x"}).output.dir, "/tmp/{name}: #1=x");
  EXPECT_EQ(parse("", {"output.dir=[a]"}).output.dir, "[a]");
  EXPECT_EQ(parse("data: {path: x}", {"data.path="}).data.path, "");
  EXPECT_EQ(
      parse("", {"model.name=layers", "model.layers=[{type: flatten}, {type: linear, out: 10}]"}).model.layers[1].out,
      10);
}

TEST(Config, ALengthReplacesTheOneGivenBefore) {
  const auto length = [](const std::string& yaml, const std::vector<std::string>& overrides) {
    const Config c = parse(yaml, overrides);
    return c.train.steps > 0 ? std::to_string(c.train.steps) + " steps" : std::to_string(c.train.epochs) + " epochs";
  };
  EXPECT_EQ(length("train: {steps: 50}", {}), "50 steps");
  EXPECT_EQ(length("train: {steps: 50, epochs: 3}", {}), "50 steps");
  EXPECT_EQ(length("train: {steps: 50}", {"train.epochs=3"}), "3.000000 epochs");
  EXPECT_EQ(length("train: {epochs: 3}", {"train.steps=50"}), "50 steps");
  EXPECT_EQ(length("", {"train.epochs=3", "train.steps=50"}), "50 steps");
  EXPECT_EQ(length("", {"train.steps=50", "train.epochs=3"}), "3.000000 epochs");
  EXPECT_EQ(parse_config("train: {steps: 50}", "a.yaml", {}, {{"train.epochs", "3", "b.yaml:1"}}).train.steps, 0);
}

TEST(Config, AliasesUnfoldToAConfigurationsSize) {
  EXPECT_EQ(parse("model: {name: mlp, hidden: [&w 64, *w]}").model.hidden, (std::vector<std::int64_t>{64, 64}));
  EXPECT_EQ(refusal("", {"probes.names=[&a [*a]]"}),
            "command line: probes.names: an alias inside of what it refers to");
  EXPECT_EQ(refusal("norm: &n\n  eps: *n\n"), "a.yaml:2: not valid YAML: an alias inside of what it refers to");
  std::string bomb = "probes.names=[&a0 [x, x, x, x, x, x, x, x, x, x]";
  std::string deep = bomb;
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format(", &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]", i, i - 1);
    deep += fmt::format(", &a{} [[[[[[[[[[*a{}]]]]]]]]]]", i, i - 1);
  }
  for (const std::string& text : {bomb, deep})
    EXPECT_EQ(refusal("", {text + "]"}), "command line: probes.names: too many values, or too deeply nested");
  EXPECT_EQ(refusal("", {"model.hidden=[7] x"}),
            "command line: model.hidden: unexpected text, or a second YAML document");
}

TEST(Config, OverridesAreCheckedLikeTheFile) {
  EXPECT_EQ(refusal("", {"norm.grup=all"}), "command line: unknown key 'norm.grup'; did you mean 'norm.group'?");
  EXPECT_EQ(refusal("", {"workers=010"}),
            "command line: workers: expected an integer >= 1 and <= 65536, or auto, got '010'");
  EXPECT_EQ(refusal("", {"--resum"}), "command line: expected KEY=VALUE, got '--resum'");
  EXPECT_EQ(refusal("", {"norm=batch"}), "command line: 'norm' is a section; set one of its keys (norm.KEY=VALUE)");
  EXPECT_EQ(refusal("", {"model.hidden=[1, x]"}),
            "command line: model.hidden: expected an integer >= 1 and <= 1000000, got 'x'");
  for (const char* bad : {"", "=", "=1", "workers", "workers=", "workers= 4", "model.hidden=[1", "model.hidden=3",
                          "norm.group.x=1", "model.layers=[1]"}) {
    EXPECT_NE(refusal("", {bad}), "") << bad;
  }
}

TEST(Config, ChecksKeysAgainstEachOther) {
  EXPECT_EQ(refusal("workers: 8\nnorm:\n  group: 3\n"),
            "a.yaml:3: norm.group: 3 does not divide workers = 8; possible are 1, 2, 4, 8");
  EXPECT_EQ(refusal("norm: {group: 3}"), "");  // workers: auto is not known yet
  Config c = parse("norm: {group: 3}");
  c.workers = 4;
  EXPECT_THROW(check_config(c), Error);
  EXPECT_EQ(refusal("schedule: {name: step}"),
            "schedule.milestones: schedule.name = step needs milestones, such as [0.5, 0.75]");
  for (const char* bad : {"[0.5, 0.4]", "[0.5, 100]", "[1]", "[10.5]", "[10, 10]"}) {
    EXPECT_NE(refusal(std::string("schedule: {name: step, milestones: ") + bad + "}"), "") << bad;
  }
  EXPECT_EQ(refusal("train: {eval_statistics: [running, precise, batch]}"), "");
  EXPECT_EQ(refusal("train: {eval_statistics: [precise, batch, precise]}"),
            "a.yaml:1: train.eval_statistics: names precise twice");
  EXPECT_EQ(refusal("train: {eval_statistics: []}"),
            "a.yaml:1: train.eval_statistics: needs at least one of running, precise, batch");
  EXPECT_EQ(refusal("train: {eval_statistics: [moving]}"),
            "a.yaml:1: train.eval_statistics: expected one of running, precise, batch, got 'moving'");
  EXPECT_NE(refusal("train: {eval_statistics: [running, batch]}\nnorm: {track_running_stats: false}"), "");
  EXPECT_EQ(refusal("train: {eval_statistics: [precise, batch]}\nnorm: {track_running_stats: false}"), "");
  EXPECT_EQ(refusal("norm: {track_running_stats: false}"), "");
  EXPECT_NE(refusal("train: {precise_samples: 0}"), "");
  EXPECT_EQ(
      refusal("precision: bfloat16"),
      "a.yaml:1: precision: bfloat16 is for device: cuda; device: cpu computes in float32: change one of the two");
  EXPECT_EQ(refusal("precision: bfloat16\ndevice: cuda"), "");
  EXPECT_NE(refusal("optimizer: {name: adam, nesterov: true}"), "");
  EXPECT_NE(refusal("schedule: {warmup_steps: 5, warmup_epochs: 1}"), "");
  EXPECT_NE(refusal("model: {name: layers}"), "");
  EXPECT_NE(refusal("model: {layers: [{type: flatten}]}"), "");
}

TEST(Config, ReadsListsOfLayersStrictly) {
  const std::string head = "model:\n  name: layers\n  layers:\n";
  const Config c = parse(head + "    - {type: conv2d, out: 6, kernel: 5, bias: false}\n    - {type: add, from: x}\n");
  ASSERT_EQ(c.model.layers.size(), 2u);
  EXPECT_EQ(c.model.layers[0].out, 6);
  EXPECT_FALSE(c.model.layers[0].bias);
  EXPECT_EQ(c.model.layers[1].from, "x");
  EXPECT_EQ(refusal(head + "    - {type: relu}\n    - {type: conv2d, out: 6, kernal: 5}\n"),
            "a.yaml:5: unknown key 'model.layers[1].kernal'; did you mean 'kernel'?");
  EXPECT_EQ(refusal(head + "    - {type: conv2d, out: 6}\n"),
            "a.yaml:4: model.layers[0]: conv2d needs 'kernel' (an integer >= 1 and <= 1024)");
  EXPECT_EQ(refusal(head + "    - {type: relu, out: 6}\n"), "a.yaml:4: model.layers[0]: relu has no 'out'");
  EXPECT_NE(refusal(head + "    - {type: conv3d}\n").find("did you mean 'conv2d'?"), std::string::npos);
  EXPECT_NE(refusal(head + "    - {out: 3}\n"), "");
  EXPECT_NE(refusal(head + "    - {type: relu, type: relu}\n"), "");
  EXPECT_NE(refusal(head + "    - relu\n"), "");
}

TEST(Config, WrittenTextReadsBackTheSame) {
  for (const std::string& yaml :
       {std::string(), std::string("norm: {group: node, momentum: cumulative, eps: 1e-300}\nseed: 7\nthreads: 3"),
        std::string("data: {kind: mnist, path: \"~\"}\noutput: {dir: \"a: 'b' #c\\n\\td {name}\"}"),
        std::string("schedule: {name: step, milestones: [0.1, 0.30000000000000004]}"),
        std::string("train: {eval_statistics: [batch, running]}"),
        std::string(
            "model: {name: layers, layers: [{type: conv2d, out: 4, kernel: 3, name: 'y: z'}, {type: dropout, p: "
            "0.25}]}")}) {
    const Config c = parse(yaml);
    const std::string text = to_yaml(c);
    EXPECT_EQ(to_yaml(parse(text)), text);
    EXPECT_EQ(parse(text).data.path, c.data.path);
    EXPECT_EQ(parse(text).output.dir, c.output.dir);
    EXPECT_EQ(parse(text).schedule.milestones, c.schedule.milestones);
    EXPECT_EQ(parse(text).model.layers, c.model.layers);
    EXPECT_EQ(parse(text).train.eval_statistics, c.train.eval_statistics);
  }
}

TEST(Config, ExperimentLeavesOutHowItIsRun) {
  const std::string base = experiment_yaml(Config{});
  EXPECT_EQ(changes_yaml(Config{}), "{}\n");
  EXPECT_EQ(changes_yaml(parse("norm: {eps: 1e-4, momentum: 0.1}\nseed: 7\nthreads: 3")),
            "seed: 7\nnorm:\n  eps: 0.0001\n");
  for (const char* same : {"threads=3", "overlap=false", "bucket_kib=1", "timeout_s=1", "checkpoint.every=7",
                           "checkpoint.keep=9", "output.dir=x", "data.prefetch=9", "train.log_every=3"}) {
    EXPECT_EQ(experiment_yaml(parse("", {same})), base) << same;
    EXPECT_NE(to_yaml(parse("", {same})), to_yaml(Config{})) << same;
  }
  const Config mnist = parse("data: {kind: mnist}"), elsewhere = parse("data: {kind: mnist, path: x}");
  EXPECT_EQ(experiment_yaml(elsewhere), experiment_yaml(mnist));
  EXPECT_NE(to_yaml(elsewhere), to_yaml(mnist));
  for (const char* other : {"seed=2", "workers=3", "norm.group=1", "reduction=native", "train.eval_every=5",
                            "data.train_limit=5", "optimizer.lr=1", "train.epochs=9"}) {
    EXPECT_NE(experiment_yaml(parse("", {other})), base) << other;
  }
  EXPECT_NE(experiment_yaml(parse("", {"device=cuda", "precision=tf32"})), experiment_yaml(parse("", {"device=cuda"})));
}

TEST(Config, EveryKeyHasAMeaningAndCanBeSet) {
  std::set<std::string> names;
  for (const KeyHelp& key : config_keys()) {
    EXPECT_TRUE(names.insert(key.key).second) << key.key;
    EXPECT_FALSE(key.meaning.empty()) << key.key;
    const std::string value = key.default_value == "\"\"" ? "" : key.default_value;
    EXPECT_EQ(refusal("", {key.key + "=" + value}), "") << key.key << "=" << value;
  }
  for (const char* promised : {"seed",
                               "workers",
                               "batch_per_worker",
                               "norm.type",
                               "norm.group",
                               "norm.eps",
                               "norm.momentum",
                               "data.kind",
                               "data.path",
                               "data.train_limit",
                               "data.test_limit",
                               "model.name",
                               "optimizer.name",
                               "optimizer.lr",
                               "train.epochs",
                               "train.steps",
                               "train.eval_every",
                               "checkpoint.every",
                               "output.dir",
                               "reduction",
                               "threads"}) {
    EXPECT_TRUE(names.count(promised)) << promised;
  }
}

TEST(Config, ShippedConfigurationsAreValid) {
  std::set<std::string> names;
  for (const ShippedConfig& shipped : shipped_configs()) {
    names.insert(shipped.name);
    EXPECT_NO_THROW(parse_config(shipped.text, shipped.name, {})) << shipped.name;
    EXPECT_EQ(to_yaml(load_config(shipped.name, {})), to_yaml(parse_config(shipped.text, "", {})));
  }
  for (const char* promised : {"quickstart", "mnist_lenet", "bn_paper_mnist", "cifar10_resnet20", "cifar10_small_batch",
                               "cifar10_resnet20_paper", "fashion_mnist_lenet", "layers_example"}) {
    EXPECT_TRUE(names.count(promised)) << promised;
  }
}

TEST(Config, LoadsFilesAndNamesTheMissing) {
  const auto dir = std::filesystem::path(testing::TempDir()) / "syncbn_config_test";
  std::filesystem::create_directories(dir);
  const std::string file = dir / "mine.yaml";
  std::ofstream(file) << "seed: 5\nnrom: {}\n";
  const auto message = [](const std::string& path) {
    try {
      load_config(path, {});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(file), file + ":2: unknown key 'nrom'; did you mean 'norm'?");
  EXPECT_NE(message(dir).find("is a directory"), std::string::npos);
  EXPECT_NE(message("quickstrat").find("did you mean 'quickstart'?"), std::string::npos);
  EXPECT_NE(message("/nowhere/x.yaml").find("no such file"), std::string::npos);
  EXPECT_EQ(message("study/quick"),
            "study/quick: not a configuration; studies are started with: syncbn study study/quick");
  std::ofstream(file) << "title: x\nbase: quickstart\n";
  EXPECT_EQ(message(file), file + ": is a study, which has a `base`; start it with: syncbn study " + file);
  std::ofstream(file) << "title: lat\xe9\n";
  EXPECT_EQ(message(file), file + ": not in UTF-8; convert it");
  EXPECT_NE(refusal("", {"output.dir=lat\xe9"}), "");
  EXPECT_NE(refusal("", {"output.dir="}), "");
  std::ofstream(file) << "seed: 5\n";
  EXPECT_EQ(load_config(file, {"seed=6"}).seed, 6u);
  std::filesystem::remove_all(dir);
}

// Whatever the bytes are: an Error of usage, or a Config; never a crash, never another exception.
TEST(Config, SurvivesDamagedText) {
  const std::string whole = to_yaml(load_config("layers_example", {}));
  for (std::size_t n = 0; n < whole.size(); n += 3) refusal(whole.substr(0, n));
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string text = whole;
    for (int k = 0; k < 4; ++k) text[random() % text.size()] = static_cast<char>(random() % 256);
    refusal(text);
    std::string noise(random() % 64, ' ');
    for (char& c : noise) c = static_cast<char>(random() % 256);
    refusal(noise);
  }
}

}  // namespace
}  // namespace syncbn
