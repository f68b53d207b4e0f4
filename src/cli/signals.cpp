#include "cli/signals.hpp"

#include <execinfo.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <initializer_list>

#include "cli/launch.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn::cli {
namespace {

// What a signal handler reads must exist before the signal, in memory that needs no allocation.
std::array<char, 4096> crash_path{};
std::array<char, 64> crash_line{};
bool memory_is_limited = false;
std::array<char, 4096> crash_environment{};

const char* interrupt_answer = "";

void write_text(int file, const char* text) {
  [[maybe_unused]] const ssize_t written = ::write(file, text, std::strlen(text));
}

void handle_stop(int signal) {
  const int error = errno;
  if (signal == SIGINT) write_text(STDERR_FILENO, interrupt_answer);
  request_stop();
  errno = error;
}

void handle_crash(int signal) {
  std::array<void*, 64> frames{};
  const int depth = backtrace(frames.data(), static_cast<int>(frames.size()));
  const int file = ::open(crash_path.data(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  write_text(STDERR_FILENO, crash_line.data());
  write_text(STDERR_FILENO, sigabbrev_np(signal));
  if (signal == SIGBUS)
    write_text(STDERR_FILENO, " (was a data file cut short or its disk lost while in use, or is /dev/shm full?)");
  if (signal == SIGSEGV && memory_is_limited)  // oneDNN uses memory that it was refused
    write_text(STDERR_FILENO, " (is the memory that ulimit -v allows too little?)");
  if (file >= 0) {
    write_text(STDERR_FILENO, "; see ");
    write_text(STDERR_FILENO, crash_path.data());
    write_text(file, crash_line.data());
    write_text(file, sigabbrev_np(signal));
    write_text(file, "\n");
    write_text(file, crash_environment.data());
  }
  write_text(STDERR_FILENO, "\n");
  backtrace_symbols_fd(frames.data(), depth, file >= 0 ? file : STDERR_FILENO);
  if (file >= 0) ::close(file);
  ::raise(signal);  // the handler is gone (SA_RESETHAND): this ends the process
}

void set_handler(int signal, void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

bool is_ignored(int signal) {
  struct sigaction inherited {};
  ::sigaction(signal, nullptr, &inherited);
  return inherited.sa_handler == SIG_IGN;
}

// Asked before any library starts: UCX, which newer Open MPI brings along, takes SIGHUP for itself at once.
bool hangup_is_ignored = false;
void look_at_hangup() {
  hangup_is_ignored = is_ignored(SIGHUP);
}
[[gnu::section(".preinit_array"), gnu::used]] void (*at_start)() = look_at_hangup;

template <std::size_t N>
void store(std::array<char, N>& to, const std::string& text) {
  std::strncpy(to.data(), text.c_str(), N - 1);
}

}  // namespace

void ignore_write_signals() {
  for (const int signal : {SIGPIPE, SIGXFSZ}) set_handler(signal, SIG_IGN, 0);
}

void stop_on_signals() {
  for (const int signal : {SIGTERM, SIGUSR1}) set_handler(signal, handle_stop, SA_RESTART);
  set_handler(SIGHUP, hangup_is_ignored ? SIG_IGN : handle_stop, SA_RESTART);  // nohup: the terminal may go
  if (is_ignored(SIGINT)) return;  // started in the background of a script: Ctrl-C is for others
  if (detect_launcher().rank == 0) interrupt_answer = "\nsyncbn: stopping after this step; once more to stop at once\n";
  set_handler(SIGINT, handle_stop, SA_RESTART | SA_RESETHAND);
}

void report_crashes(int rank, const std::string& directory) {
  store(crash_path, fmt::format("{}/crash-rank{}.txt", directory, rank));
  store(crash_line, fmt::format("syncbn: rank {} (process {}) crashed: SIG", rank, ::getpid()));
  std::string environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    for (const char* prefix : {"OMPI_", "PRTE_", "SLURM_", "OMP_", "PMI", "LD_LIBRARY_PATH="}) {
      if (text.starts_with(prefix)) environment += text + "\n";
    }
  }
  store(crash_environment, environment);
  rlimit memory{};
  memory_is_limited = ::getrlimit(RLIMIT_AS, &memory) == 0 && memory.rlim_cur != RLIM_INFINITY;
  std::array<void*, 1> frame{};
  backtrace(frame.data(), 1);  // loads what it needs now: the handler must not allocate
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) set_handler(signal, handle_crash, SA_RESETHAND);
}

}  // namespace syncbn::cli
