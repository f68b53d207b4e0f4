#include "cli/program.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace syncbn::test {
namespace {

constexpr const char* kOut = ".stdout";
constexpr const char* kErr = ".stderr";

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

bool is_launcher_variable(const std::string& entry) {
  for (const char* prefix : {"OMPI_COMM_WORLD_", "PMI_", "PMIX_", "SLURM_", "SYNCBN_DATA", "XDG_CACHE_HOME="}) {
    if (entry.starts_with(prefix)) return true;
  }
  return false;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

}  // namespace

Sandbox::Sandbox() {
  std::string path = (std::filesystem::temp_directory_path() / "syncbn_cli_XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("no temporary folder");
  folder_ = path;
}

Sandbox::~Sandbox() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

int Sandbox::start(const std::vector<std::string>& command, const std::vector<std::string>& environment) const {
  std::vector<std::string> arguments = command, variables = environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!is_launcher_variable(*entry)) variables.push_back(*entry);
  }
  variables.push_back("XDG_CACHE_HOME=" + (folder_ / "cache").string());
  const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
  const int process = ::fork();
  if (process < 0) throw std::runtime_error("fork failed");
  if (process == 0) {
    ::signal(SIGINT, SIG_DFL);  // a script that starts the tests in the background has it ignored
    ::signal(SIGHUP, SIG_DFL);  // nohup
    const int out = ::open(file(kOut).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int err = ::open(file(kErr).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int in = ::open("/dev/null", O_RDONLY);
    if (::dup2(in, 0) == 0 && ::dup2(out, 1) == 1 && ::dup2(err, 2) == 2 && ::chdir(folder_.c_str()) == 0) {
      ::execvpe(argv[0], argv.data(), envp.data());
    }
    ::_exit(127);
  }
  return process;
}

Outcome Sandbox::finish(int process) const {
  int status = 0;
  if (::waitpid(process, &status, 0) != process) throw std::runtime_error("waitpid failed");
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read(kOut), read(kErr)};
}

Outcome Sandbox::syncbn(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) const {
  std::vector<std::string> command = {SYNCBN_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return finish(start(command, environment));
}

Outcome Sandbox::mpirun(int ranks, const std::vector<std::string>& arguments,
                        const std::vector<std::string>& environment) const {
  std::vector<std::string> command = {"timeout",     "-k", "5", "300", SYNCBN_MPIRUN, "-n", std::to_string(ranks),
                                      SYNCBN_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = words_of(SYNCBN_MPI_ENVIRONMENT);
  variables.insert(variables.end(), environment.begin(), environment.end());
  return finish(start(command, variables));
}

Outcome Sandbox::shell(const std::string& script) const {
  return finish(start({"sh", script, SYNCBN_PROGRAM}, {}));
}

Outcome Sandbox::signalled(const std::vector<std::string>& arguments, const std::string& name, int signal,
                           int times) const {
  std::vector<std::string> command = {SYNCBN_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const int process = start(command, {});
  // Looked for often, since a small training is over soon.
  for (int i = 0; i < 30000 && !std::filesystem::exists(file(name)); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (int i = 0; i < times; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    // The first thread gets it: of a signal to all, a thread may be the receiver that has run nothing of ours yet.
    ::tgkill(process, process, signal);
  }
  return finish(process);
}

std::string Sandbox::read(const std::string& name) const {
  std::ifstream in(file(name), std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void Sandbox::write(const std::string& name, const std::string& text) const {
  std::ofstream(file(name), std::ios::binary) << text;
}

}  // namespace syncbn::test
