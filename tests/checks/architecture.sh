#!/bin/sh
# Usage: architecture.sh ROOT
# Checks who includes whom, where third-party headers appear, file lengths and leftovers; prints one line
# per violation (file:line: what) and fails if there is any.
set -eu
cd "$1"

# shellcheck disable=SC2016  # the dollars are awk's
find include src tests launch cmake -type f \( -name '*.[ch]pp' -o -name '*.h' -o -name '*.c' -o -name '*.cu' -o -name '*.cuh' \
  -o -name '*.sh' -o -name '*.cmake' -o -name CMakeLists.txt \) -print 2>/dev/null | LC_ALL=C sort |
  xargs awk '
  BEGIN {
    # Module -> modules it may include, besides itself.
    may["core"] = " "
    may["comm"] = " core "
    may["ops"] = " core "
    may["nn"] = " ops comm core "
    may["data"] = " core "
    may["optim"] = " core "
    may["train"] = " nn optim data comm core "
    may["study"] = " train nn optim data comm core "
    may["cli"] = " study train nn optim data comm core "
    # Folders of a module -> what they may include of it, besides its public headers and themselves.
    within["comm/order"] = " "
    within["comm/threads"] = " "
    within["comm/links"] = " comm/order comm/threads "
    within["comm"] = " comm/order comm/threads comm/links "
    within["comm/devices"] = " comm comm/order comm/links comm/devices/nccl "
    within["comm/gradients"] = " comm comm/order comm/links comm/devices "
    within["data/files"] = " "
    within["data/catalog"] = " data data/files "
    within["data/sources"] = " data data/files "
    within["data/loading"] = " data "
    within["nn/models"] = " "
    within["study/plan"] = " study "
    within["study/report"] = " study "
    within["study/running"] = " study study/plan study/report "
    within["train/config"] = " "
    within["train/storage"] = " "
    within["train/probes"] = " "
    max_lines = 400
    # (A name ending in -inl.hpp is of Highway: included once per instruction set, so without #pragma once.)
    leftover = "(^|[^[:alnum:]_])(TO" "DO|FIX" "ME|X" "XX|HA" "CK)([^[:alnum:]_]|$)"
  }

  function report(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; violations++ }

  # The module of a path below include/syncbn or src, or of the text between the quotes of an include; "" if none.
  function module_of(path) {
    sub(/^(include\/syncbn|src|syncbn)\//, "", path)
    if (path !~ /\//) return ""
    sub(/\/.*/, "", path)
    return (path in may) ? path : ""
  }

  # The folder of a private header or source, such as train/probes.
  function folder_of(path) {
    sub(/^src\//, "", path)
    sub(/\/[^\/]*$/, "", path)
    return path
  }

  function check_own(target,    to, from) {
    to = module_of(target)
    from = folder_of(FILENAME)
    if (to == module && target !~ /^syncbn\// && from in within && folder_of(target) != from &&
        index(within[from], " " folder_of(target) " ") == 0)
      report(from " must not include " folder_of(target) " (" target ")")
    if (FILENAME ~ /^include\// && target !~ /^syncbn\//) report("a public header includes the private " target)
    if (module == "" || to == "" || to == module) return
    if (index(may[module], " " to " ") == 0)
      report(module " must not include " to " (" target ")")
  }

  function check_foreign(target) {
    if (FILENAME ~ /^tests\// || target ~ /^syncbn\//) return
    if (FILENAME ~ /^include\// && target ~ /[.\/]/) report("third-party header in a public header: " target)
    if (target ~ /^mpi/ && module != "comm") report(target " belongs in src/comm")
    if (target ~ /^nccl/ && module != "comm") report(target " belongs in src/comm")
    if (target ~ /^(cuda|cudnn|cublas|cub\/|nvtx)/ && FILENAME !~ /^src\/ops\/cuda\//) report(target " belongs in src/ops/cuda")
    if (target ~ /^(dnnl|oneapi\/|hwy\/|omp\.h)/ && module != "ops") report(target " belongs in src/ops")
    if (target ~ /^(Eigen|unsupported\/Eigen)\// && module !~ /^(ops|optim)$/ && FILENAME !~ /\.cpp$/)
      report(target " belongs in src/ops, src/optim or a .cpp file")
  }

  function finish_file() {
    if (previous == "") return
    if (lines > max_lines) { printf "%s:%d: more than %d lines\n", previous, lines, max_lines; violations++ }
    if (previous ~ /\.(hpp|cuh)$/ && previous !~ /-inl\.hpp$/ && !once) { printf "%s:1: no #pragma once\n", previous; violations++ }
  }

  FNR == 1 {
    finish_file()
    previous = FILENAME
    once = 0
    module = (FILENAME ~ /^(include|src)\//) ? module_of(FILENAME) : ""
    if (FILENAME ~ /^(include\/syncbn|src)\/[^\/]+\// && module == "") report("not in one of the known modules")
  }
  { lines = FNR }
  /^#pragma once/ { once = 1 }
  /^[ \t]*#[ \t]*include[ \t]*"/ { split($0, part, "\""); check_own(part[2]); check_foreign(part[2]) }
  /^[ \t]*#[ \t]*include[ \t]*</ { split($0, part, /[<>]/); check_foreign(part[2]) }
  $0 ~ leftover { report("unfinished by its own words") }
  END { finish_file(); exit violations > 0 }
'
