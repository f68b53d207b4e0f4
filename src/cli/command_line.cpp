#include "cli/command_line.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "core/build_id.hpp"
#include "core/text.hpp"
#include "study/study.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn::cli {
namespace {

constexpr const char* kExitCodes =
    "Exit codes: 0 ok, 1 failed while running, 2 usage or configuration, 65 bad data, 69 MPI or another service "
    "unavailable,\n75 stopped by SIGTERM, SIGUSR1, SIGHUP or Ctrl-C after a checkpoint\n"
    "(train --resume goes on; study: the same command). The second Ctrl-C ends a process at once.\n"
    "mpirun passes on SIGUSR1 only: at SIGTERM or Ctrl-C it gives its ranks a second, and leaves with 1.";

std::string keys_text(const std::string& heading, const std::vector<KeyHelp>& keys) {
  const auto title = [](const KeyHelp& key) {
    return key.default_value.empty() ? key.key : fmt::format("{} ({})", key.key, key.default_value);
  };
  std::string text = heading + "\n";
  std::size_t width = 0;
  for (const KeyHelp& key : keys) width = std::max(width, title(key).size());
  for (const KeyHelp& key : keys) text += fmt::format("  {:<{}}  {}\n", title(key), width, key.meaning);
  return text;
}

/// A figure of a machine. Beyond these no unit is meant, and no table is readable.
std::string check_figure(const std::string& text) {
  constexpr double kLeast = 1e-9, kMost = 1e12;
  double value = 0;
  const bool number = CLI::detail::lexical_cast(text, value);
  if (number && value >= kLeast && value <= kMost) return "";  // not for NaN
  return fmt::format("expected a number from 1e-9 to 1e12, got '{}'", text);
}

/// For a command that one process does: under mpirun the other ranks would do the same, and write the same files.
std::function<ExitCode()> on_first_rank(std::function<ExitCode()> action) {
  return [action = std::move(action)] { return detect_launcher().rank == 0 ? action() : ExitCode::ok; };
}

/// All subcommands, their options and what they run.
class CommandLine {
 public:
  CommandLine(int argc, char** argv) {
    for (std::vector<std::string>* command : {&train_.command, &study_.command, &eval_.command, &explain_.command})
      command->assign(argv, argv + argc);
    app_.require_subcommand(1);
    app_.set_version_flag("--version", fmt::format("syncbn {} (build {})", SYNCBN_VERSION, build_id()),
                          "Print the version");
    app_.footer(
        fmt::format("Examples:\n"
                    "  syncbn train quickstart                       a first run, on all cores\n"
                    "  mpirun -n 4 syncbn train quickstart           the same on 4 MPI ranks: the same result\n"
                    "  syncbn train quickstart norm.group=1          with local instead of shared statistics\n"
                    "  syncbn COMMAND --help                         options and examples of a command\n\n{}",
                    kExitCodes));
    add_train();
    add_study();
    add_report();
    add_eval();
    add_explain();
    add_doctor();
    add_data();
    add_configs();
  }

  ExitCode run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      if (e.get_exit_code() == 0) return static_cast<ExitCode>(app_.exit(e));  // --help, --version
      refuse(e, argc, argv);
    }
    return action_();
  }

 private:
  CLI::App* add(CLI::App* parent, const std::string& name, const std::string& about, const std::string& footer,
                std::function<ExitCode()> action) {
    CLI::App* command = parent->add_subcommand(name, about);
    command->footer(footer);
    if (action) command->callback([this, action = std::move(action)] { action_ = action; });
    return command;
  }

  static constexpr const char* kAnyConfig =
      "YAML file, run directory, or the name of a shipped configuration (syncbn configs list)";

  static void add_config(CLI::App* command, std::string& config, std::vector<std::string>& overrides) {
    command->add_option("CONFIG", config, "YAML file, or the name of a shipped one (syncbn configs list)")->required();
    command->add_option("OVERRIDE", overrides, "KEY=VALUE, for a key of the configuration; the last one wins");
  }

  void add_train() {
    CLI::App* c = add(&app_, "train", "Train as a configuration says",
                      keys_text("Keys of a configuration (default) and their meaning; KEY=VALUE overrides them, lists "
                                "are [a, b]:",
                                config_keys()) +
                          keys_text("\nKeys of a layer of model.layers:", layer_keys()) +
                          "\nExamples:\n"
                          "  syncbn train quickstart\n"
                          "  mpirun -n 4 syncbn train my.yaml optimizer.lr=0.2 train.epochs=30\n"
                          "  syncbn train my.yaml norm.group=4 --output runs/groups-of-4\n"
                          "  mpirun -n 2 syncbn train my.yaml --resume     goes on, on any number of ranks\n\n" +
                          kExitCodes,
                      [this] {
                        if (output_given_->count() > 0) add_output();
                        return run_train(train_);
                      });
    add_config(c, train_.config, train_.overrides);
    c->get_option("CONFIG")->description(kAnyConfig);
    c->add_flag("--resume", train_.resume, "go on from the newest checkpoint of the run directory, if there is one");
    output_given_ = c->add_option("--output", output_, "run directory; short for output.dir=DIR")->type_name("DIR");
    c->add_flag("--log-ranks", train_.log_ranks, "show the messages of all ranks, not only of rank 0");
  }

  /// Short for a key that the command line may give as well.
  void add_output() {
    for (const std::string& one : train_.overrides) {
      if (one.starts_with("output.dir=") && one != "output.dir=" + output_)
        throw Error(fmt::format("--output {} and {} differ; give one of them", output_, one), ExitCode::usage);
    }
    train_.overrides.push_back("output.dir=" + output_);
  }

  void add_study() {
    CLI::App* c = add(
        &app_, "study", "Train many variants of a configuration, side by side, and compare them",
        keys_text("Keys of a study file (default); syncbn configs show study/quick is an example:", study_file_keys()) +
            "\nThe same command goes on where a study was interrupted.\n\nExamples:\n"
            "  syncbn study quick --dry-run                  what would be trained, and for how long\n"
            "  mpirun -n 4 syncbn study quick                on all cores of 4 ranks\n"
            "  mpirun -n 4 syncbn study my.yaml train.epochs=2 seeds=1 --output studies/small\n\n" +
            std::string(kExitCodes),
        [this] { return run_study(study_); });
    add_config(c, study_.config, study_.overrides);
    c->get_option("CONFIG")->description("study file, or the name of a shipped one (syncbn configs list)");
    c->get_option("OVERRIDE")->description("KEY=VALUE, for a key of the configuration, for all trials; and seeds=N");
    c->add_option("--output", study_.output, "folder of the study; default: studies/NAME")->type_name("DIR");
    c->add_option("--jobs", study_.jobs, "trials at once, at most; default: as many as cores and memory allow")
        ->check(CLI::Range(1, 65536))
        ->type_name("N");
    c->add_flag("--dry-run", study_.dry_run,
                "check the study file and show the trials, but look for no data and train nothing");
  }

  void add_report() {
    CLI::App* c = add(&app_, "report", "Write the report of one or more studies again",
                      "Examples:\n"
                      "  syncbn report studies/quick\n"
                      "  syncbn report studies/monday studies/tuesday --output both.html",
                      on_first_rank([this] { return run_report(report_); }));
    c->add_option("DIR", report_.dirs, "folders of studies")->required();
    c->add_option("--output", report_.output, "HTML file; default: report.html in the first folder")->type_name("FILE");
  }

  void add_eval() {
    CLI::App* c = add(&app_, "eval", "Accuracy and loss of stored weights",
                      "Examples:\n"
                      "  syncbn eval runs/quickstart\n"
                      "  syncbn eval runs/quickstart --weights best    of its best checkpoint\n"
                      "  syncbn eval cifar10_resnet20 --weights model.safetensors --split test\n"
                      "  syncbn eval runs/quickstart --predictions quickstart.csv\n"
                      "  mpirun -n 4 syncbn eval runs/mine --weights runs/mine/checkpoints/step-000001000",
                      [this] { return run_eval(eval_); });
    add_config(c, eval_.config, eval_.overrides);
    c->get_option("CONFIG")->description("configuration or run directory");
    c->add_option(
         "--weights", eval_.weights,
         "safetensors file or checkpoint; best, last: that checkpoint of the run directory; default: its final weights")
        ->type_name("FILE");
    c->add_option("--split", eval_.split, "images to evaluate on; default: train.eval_split of the configuration")
        ->check(CLI::IsMember({"test", "train"}));
    c->add_option("--predictions", eval_.predictions,
                  "CSV file to write, a row per image: label, prediction, probability of each, rank of the label (1: "
                  "right; up to 5: in the top 5); by the first of train.eval_statistics")
        ->check([](const std::string& name) { return name.empty() ? "expected the name of a file" : ""; })
        ->type_name("FILE");
    c->add_flag("--log-ranks", eval_.log_ranks, "show the messages of all ranks, not only of rank 0");
  }

  void add_explain() {
    CLI::App* c =
        add(&app_, "explain", "Show layers, sizes, memory and messages of a configuration",
            "Examples:\n"
            "  syncbn explain cifar10_resnet20\n"
            "  syncbn explain my.yaml workers=64 norm.group=8 --ranks 16\n"
            "  mpirun -n 4 syncbn explain my.yaml workers=4096 --measure   time of a step on 1, 2, 4, ... ranks",
            [this] { return run_explain(explain_); });
    add_config(c, explain_.config, explain_.overrides);
    c->get_option("CONFIG")->description(kAnyConfig);
    c->add_option("--ranks", explain_.ranks, "MPI ranks to assume")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str()
        ->type_name("P");
    c->add_flag("--measure", explain_.measure,
                "predict the time of a step on 1, 2, 4, ... ranks from figures measured here; messages are measured "
                "between the ranks of an mpirun");
    const auto figure = [&](const char* name, double& value, const char* meaning) {
      c->add_option(name, value, std::string("for that prediction: ") + meaning)
          ->check(check_figure)
          ->capture_default_str()
          ->each([this](const std::string&) { explain_.predict = true; });
    };
    figure("--sample-us", explain_.sample_us, "forward and backward of a sample on one core");
    figure("--update-us", explain_.update_us, "new weights from the summed gradient");
    for (const char* measured : {"--sample-us", "--update-us"}) c->get_option("--measure")->excludes(measured);
    figure("--latency-us", explain_.latency_us, "an exchange between ranks, however small");
    figure("--per-message-us", explain_.per_message_us, "every further rank in an exchange");
    figure("--bandwidth-gbs", explain_.bandwidth_gbs, "GB/s that a rank sends");
    figure("--skew-us", explain_.skew_us, "standard deviation of the ranks' arrival at an exchange");
    c->add_option("--threads", explain_.threads, "for that prediction: cores of a rank")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str()
        ->each([this](const std::string&) { explain_.predict = true; })
        ->excludes("--measure");
  }

  void add_doctor() {
    add(&app_, "doctor", "Show what this machine and this launch offer",
        "Examples:\n"
        "  syncbn doctor\n"
        "  mpirun -n 4 syncbn doctor                     what a launch offers, with a quick all-reduce figure\n\n"
        "SYNCBN_CUDA_MODULE and SYNCBN_NCCL_MODULE name libsyncbn_cuda.so and libsyncbn_nccl.so where they do not lie "
        "beside libsyncbn.",
        [] { return run_doctor(); });
  }

  void add_data() {
    CLI::App* data = add(&app_, "data", "List, fetch and check the public data sets",
                         "Examples:\n"
                         "  syncbn data list\n"
                         "  syncbn data get mnist cifar10\n"
                         "  syncbn data check --path /datasets",
                         nullptr);
    data->require_subcommand(1);
    const auto sub = [&](const char* name, const char* about, const char* examples, bool needs_kind, auto action) {
      CLI::App* c = add(data, name, about, examples, on_first_rank([this, action] { return action(data_); }));
      CLI::Option* kinds = c->add_option("NAME", data_.kinds, "mnist, fashion-mnist, cifar10, cifar100");
      if (needs_kind) kinds->required();
      c->add_option("--path", data_.path, "folder for or with the data sets; default: $SYNCBN_DATA or the cache")
          ->type_name("DIR");
    };
    sub("list", "Which sets there are, and where they were found", "Examples:\n  syncbn data list", false,
        run_data_list);
    sub("get", "Fetch sets from their official addresses and verify them",
        "Examples:\n  syncbn data get mnist\n  syncbn data get cifar10 --path /datasets\n\n"
        "SYNCBN_DATA_MIRROR=URL fetches URL/FOLDER/FILE instead, such as URL/mnist/train-images-idx3-ubyte.gz.",
        true, run_data_get);
    sub("check", "Compare the files with the official checksums (CIFAR, once unpacked: sizes and labels)",
        "Examples:\n  syncbn data check\n  syncbn data check cifar10", false, run_data_check);
  }

  void add_configs() {
    CLI::App* configs = add(&app_, "configs", "List, show and copy the shipped configurations",
                            "Examples:\n"
                            "  syncbn configs list\n"
                            "  syncbn configs show quickstart\n"
                            "  syncbn configs copy quickstart mine.yaml",
                            nullptr);
    configs->require_subcommand(1);
    add(configs, "list", "Names and what they are", "Examples:\n  syncbn configs list",
        on_first_rank([] { return run_configs_list(); }));
    CLI::App* show = add(configs, "show", "Print one", "Examples:\n  syncbn configs show quickstart",
                         on_first_rank([this] { return run_configs_show(name_); }));
    CLI::App* copy = add(configs, "copy", "Copy one, to be changed",
                         "Examples:\n  syncbn configs copy quickstart\n  syncbn configs copy quickstart mine.yaml",
                         on_first_rank([this] { return run_configs_copy(name_, file_); }));
    for (CLI::App* c : {show, copy}) c->add_option("NAME", name_, "as in syncbn configs list")->required();
    copy->add_option("FILE", file_, "default: NAME.yaml here");
  }

  /// The subcommand that the words name as far as they are known, and the first word that is not.
  [[noreturn]] void refuse(const CLI::ParseError& error, int argc, char** argv) const {
    const CLI::App* command = &app_;
    std::string path = "syncbn";
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      const auto children = command->get_subcommands([](const CLI::App*) { return true; });
      std::vector<std::string> names;
      const CLI::App* next = nullptr;
      for (const CLI::App* child : children) {
        names.push_back(child->get_name());
        if (child->get_name() == word) next = child;
      }
      if (next != nullptr) {
        command = next;
        path += " " + word;
      } else if (!names.empty() && !word.starts_with('-')) {
        throw_unknown("command", word, names, path);
      } else if (word.starts_with("--")) {
        check_option(*command, word.substr(0, word.find('=')), path);
      }
    }
    std::string what = error.what();
    std::replace(what.begin(), what.end(), '\n', ' ');
    throw Error(fmt::format("{} (see {} --help)", what, path), ExitCode::usage);
  }

  static void check_option(const CLI::App& command, const std::string& word, const std::string& path) {
    std::vector<std::string> names;
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    if (std::find(names.begin(), names.end(), word) == names.end()) throw_unknown("option", word, names, path);
  }

  [[noreturn]] static void throw_unknown(const char* what, const std::string& word,
                                         const std::vector<std::string>& known, const std::string& path) {
    throw Error(fmt::format("unknown {} '{}'{} (see {} --help)", what, word, did_you_mean(word, known), path),
                ExitCode::usage);
  }

  CLI::App app_{
      "Training with batch normalization over any number of workers: the result depends on the workers, never "
      "on the ranks.",
      "syncbn"};
  std::function<ExitCode()> action_;
  TrainOptions train_;
  StudyOptions study_;
  ReportOptions report_;
  EvalOptions eval_;
  ExplainOptions explain_;
  DataOptions data_;
  std::string output_, name_, file_;
  const CLI::Option* output_given_ = nullptr;
};

}  // namespace

ExitCode run(int argc, char** argv) {
  return CommandLine(argc, argv).run(argc, argv);
}

}  // namespace syncbn::cli
