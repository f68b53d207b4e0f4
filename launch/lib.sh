# shellcheck shell=bash
# What the launch scripts share: finding and installing packages, building, the environment for Open MPI.
# To be sourced by a bash script that has `set -euo pipefail`.

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
preset=${SYNCBN_PRESET:-release}
build_dir=$root/build # of the presets release and strict
program=$build_dir/bin/syncbn
if [ ! -e "$root/CMakeLists.txt" ]; then program=$(dirname "$(dirname "$root")")/bin/syncbn; fi # installed with it
program=${SYNCBN_PROGRAM:-$program}

# Exit codes, as the program's.
# shellcheck disable=SC2034  # for the scripts that source this
readonly exit_usage=2 exit_unavailable=69

note() { echo "$*" >&2; }

die() { # EXIT_CODE MESSAGE
  note "${0##*/}: $2"
  exit "$1"
}

# Prints the comment block at the top of the calling script, which is its help.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

cores() { nproc; }

# ---- packages ----

# The names in launch/packages.txt: all for `tests`, those without the comment `# tests` for `build`.
list_packages() { # build|tests
  if [ "$1" = tests ]; then
    sed 's/ *#.*//; /^$/d' "$root/launch/packages.txt"
  else
    sed '/#/d; /^$/d' "$root/launch/packages.txt"
  fi
}

missing_packages() { # build|tests
  local package
  list_packages "$1" | while read -r package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || echo "$package"
  done
}

# Installs what is missing where that is allowed; otherwise prints the one line to run and ends with 69.
install_packages() { # build|tests
  if ! command -v dpkg-query apt-get > /dev/null; then
    note "No apt here: expecting a C++20 compiler, CMake 3.25, Ninja and the libraries of launch/packages.txt to be installed."
    return
  fi
  local missing as_root=()
  mapfile -t missing < <(missing_packages "$1")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2> /dev/null; then
      note "${0##*/}: ${#missing[@]} packages are missing. Run this line, then this script again:"
      note "  sudo apt-get install -y --no-install-recommends ${missing[*]}"
      exit $exit_unavailable
    fi
    as_root=(sudo -n)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300)
  run_logged "Installing ${#missing[@]} packages" install.log bash -c '"$@" update; "$@" install --no-install-recommends '"${missing[*]}" - "${apt[@]}"
}

# ---- building ----

# Runs a command with its output in a file under the build folder; shows that it is alive, and the end of the output if it fails.
run_logged() { # LABEL LOG_NAME COMMAND...
  local label=$1 log=$build_dir/$2 pid status=0 start=$SECONDS shown=0
  shift 2
  mkdir -p "$build_dir"
  note "$label ... (log: ${log#"$PWD/"})"
  set -m # a process group of its own, to be ended as a whole
  "$@" > "$log" 2>&1 < /dev/null &
  pid=$!
  set +m
  # shellcheck disable=SC2064  # the present value of pid
  trap "kill -- -$pid 2> /dev/null; exit 130" INT TERM
  while kill -0 $pid 2> /dev/null; do
    sleep 0.2
    if [ -t 2 ]; then
      printf '\r  %3d s  %-40.40s' $((SECONDS - start)) "$(tail -n 1 "$log" | grep -oE '^\[[0-9]+/[0-9]+\]')" >&2 || :
    elif [ $((SECONDS - start - shown)) -ge 20 ]; then
      shown=$((SECONDS - start))
      note "  $shown s  $(tail -n 1 "$log" | grep -oE '^\[[0-9]+/[0-9]+\]' || :)"
    fi
  done
  trap - INT TERM
  wait $pid || status=$?
  [ ! -t 2 ] || printf '\r%60s\r' '' >&2
  if [ $status != 0 ]; then
    tail -n 40 "$log" >&2
    die 1 "'$label' failed; the last lines are above, all of them in $log"
  fi
}

# Compilations at a time: one per core, as far as 1 GiB of memory each allows.
build_jobs() {
  awk -v cores="$(cores)" '/^MemAvailable:/ { jobs = int($2 / 1048576) }
    END { if (jobs < 1) jobs = 1; print (jobs < cores ? jobs : cores) }' /proc/meminfo
}

# Configures and builds; a second script that does so at the same time waits.
build() { # PRESET [TARGET]
  local name=$1 target=${2:-all}
  mkdir -p "$build_dir"
  exec {lock}> "$build_dir/.lock"
  flock "$lock"
  (cd "$root" && run_logged "Configuring ($name)" "configure-$name.log" cmake --preset "$name")
  (cd "$root" && run_logged "Building ($name)" "build-$name.log" cmake --build --preset "$name" --target "$target" --parallel "$(build_jobs)")
  exec {lock}>&-
}

# How many of NVIDIA's a program sees here.
gpus() {
  local all
  all=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || :)
  if [ "$all" -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | sed '/^-/,$d' | grep -c . || : # up to the first that is none
  else
    echo "$all"
  fi
}

# What tests and measures the CUDA backend; an error where the toolkit is missing.
build_cuda() {
  install_packages tests
  mkdir -p "$build_dir"
  (cd "$root" && run_logged "Configuring with CUDA" configure-gpu.log cmake --preset "$preset" -DSYNCBN_CUDA=ON)
  (cd "$root" && run_logged "Building" build-gpu.log cmake --build --preset "$preset" --target cuda_checks --parallel "$(build_jobs)")
}

# The program: as SYNCBN_PROGRAM says, else that of this tree, built first if it was not yet, or of this installation.
need_program() {
  if [ -x "$program" ]; then return; fi
  [ -z "${SYNCBN_PROGRAM:-}" ] || die $exit_unavailable "no program at $program (SYNCBN_PROGRAM)"
  [ -e "$root/CMakeLists.txt" ] || die $exit_unavailable "no program at $program; set SYNCBN_PROGRAM"
  install_packages build
  build "$preset" syncbn_cli
}

# ---- Open MPI ----

# Sets NAME to VALUE in the environment unless the user has set it.
default_env() { # NAME VALUE
  [ -n "${!1+set}" ] || export "$1=$2"
}

in_container() {
  [ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -n "${container:-}" ] ||
    grep -qE 'docker|kubepods|containerd|lxc' /proc/1/cgroup 2> /dev/null
}

# What a file of this process's control group for memory holds, of version 2 or 1.
memory_group() { # NAME_IN_2 NAME_IN_1
  local file two one
  two=$(sed -n 's/^0:://p' /proc/self/cgroup) one=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
  for file in "/sys/fs/cgroup$two/$1" "/sys/fs/cgroup/$1" "/sys/fs/cgroup/memory$one/$2" "/sys/fs/cgroup/memory/$2"; do
    if cat "$file" 2> /dev/null; then return; fi
  done
}

oom_kills() { memory_group memory.events memory.oom_control | sed -n 's/^oom_kill //p'; }

note_lack_of_memory() { # OOM_KILLS_BEFORE
  local now limit
  now=$(oom_kills) limit=$(memory_group memory.max memory.limit_in_bytes)
  [ "${now:-0}" -gt "${1:-0}" ] || return 0
  if [[ $limit =~ ^[0-9]{1,16}$ ]]; then limit=" of $((limit >> 20)) MiB"; else limit=; fi # none: max, or 19 digits
  note "${0##*/}: killed, because the memory$limit was used up; take fewer images per worker (batch_per_worker), or more hosts"
}

# Runs mpirun. At SIGTERM or Ctrl-C it would leave its ranks a second and end with 1; so that they can save a checkpoint
# and it ends with 75, it gets SIGUSR1 instead, which it passes on to them. The second time it gets SIGTERM.
run_mpirun() { # ARGUMENT...
  local pid='' asked='' stopping='' status=0 kills
  kills=$(oom_kills)
  trap stop_mpirun INT TERM
  trap 'stopping=yes' HUP
  trap '' USR1 # inherited: it must not end an mpirun that is not ready for it yet
  set -m # a process group of its own: what is typed at the terminal comes here only
  mpirun "$@" < /dev/null &
  pid=$!
  set +m
  trap 'stopping=yes' USR1
  # It stops and continues its ranks, but not itself.
  trap 'kill -TSTP $pid && kill -STOP $$ && kill -CONT $pid || :' TSTP
  while kill -0 "$pid" 2> /dev/null; do
    if [ -z "$stopping" ]; then
      wait "$pid" || :
    else # not at once, because it ends ranks that have just been started; again and again, because it may be lost
      sleep 0.5 || :
      kill -USR1 "$pid" 2> /dev/null || :
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM HUP USR1 TSTP
  [ $status != 137 ] || note_lack_of_memory "$kills" # 128 + SIGKILL
  return $status
}

stop_mpirun() {
  if [ -z "$asked" ]; then
    asked=yes stopping=yes
    note "${0##*/}: stopping after this step; once more to stop at once"
  else
    kill -TERM "$pid" || :
  fi
}

# Makes mpirun work as root, in containers, and with more ranks or threads than cores. PRTE_MCA_*: Open MPI 5's launcher.
mpi_environment() { # RANKS_PER_HOST [THREADS_PER_RANK]
  local ranks=$1 threads=${2:-1} launcher
  if [ "$(id -u)" = 0 ]; then
    default_env OMPI_ALLOW_RUN_AS_ROOT 1
    default_env OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
  fi
  default_env OMPI_MCA_rmaps_base_oversubscribe 1
  default_env OMPI_MCA_hwloc_base_binding_policy none
  default_env PRTE_MCA_rmaps_default_mapping_policy :oversubscribe
  default_env PRTE_MCA_hwloc_default_binding_policy none
  [ $((ranks * threads)) -le "$(cores)" ] || default_env OMPI_MCA_mpi_yield_when_idle 1
  # Containers forbid reading another process's memory.
  if in_container; then
    default_env OMPI_MCA_btl_vader_single_copy_mechanism none
    default_env OMPI_MCA_smsc ^cma # the same for Open MPI 5
  fi
  # Open MPI 5 would look for ways from a host to itself, and complain that IPv6 has none.
  default_env OMPI_MCA_reachable weighted
  # A host that dies or is cut off is noticed within seconds, not hours.
  for launcher in OMPI PRTE; do
    default_env ${launcher}_MCA_oob_tcp_keepalive_time 3
    default_env ${launcher}_MCA_oob_tcp_keepalive_intvl 1
    default_env ${launcher}_MCA_oob_tcp_keepalive_probes 3
  done
}
