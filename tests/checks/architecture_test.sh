#!/bin/sh
# Proves that architecture.sh notices each kind of violation, and none in clean sources.
set -eu
check=$(dirname "$0")/architecture.sh
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
failures=0

# expect PATTERN FILE LINE...: a tree holding FILE with these lines is refused with a message containing PATTERN ("" = accepted).
expect() {
  pattern=$1 file=$2
  shift 2
  rm -rf "${root:?}"/*
  mkdir -p "$root/include" "$root/src" "$root/$(dirname "$file")"
  printf '%s\n' "$@" > "$root/$file"
  if output=$(sh "$check" "$root" 2>&1); then verdict=accepted; else verdict=refused; fi
  case $verdict:$pattern in
    accepted:) return ;;
    refused:?*) case $output in *"$pattern"*) return ;; esac ;;
  esac
  echo "$file: expected ${pattern:-acceptance}; $verdict $output"
  failures=$((failures + 1))
}

expect '' src/nn/a.cpp '#include "syncbn/comm/world.hpp"' '#include "ops/backend.hpp"' '#include "b.hpp"' '#include <vector>'
expect '' src/comm/a.cpp '#include <mpi.h>'
expect '' src/ops/cpu/a.cpp '#include <dnnl.hpp>' '#include <omp.h>' '#include <hwy/highway.h>' '#include <Eigen/Core>'
expect '' src/nn/a.cpp '#include <Eigen/Core>'
expect '' src/ops/cuda/a.cu '#include <cuda_runtime.h>' '#include <cudnn.h>' '#include <cublasLt.h>'
expect '' tests/distributed/main.cpp '#include <mpi.h>' '#include "nn/a.hpp"'
expect '' src/ops/cpu/a-inl.hpp '#include <hwy/highway.h>'
expect '' include/syncbn/nn/a.hpp '#pragma once' '#include <vector>' '#include "syncbn/core/tensor.hpp"'

expect 'core must not include comm' src/core/a.cpp '#include "syncbn/comm/world.hpp"'
expect 'comm must not include nn' include/syncbn/comm/a.hpp '#pragma once' '#include "syncbn/nn/model.hpp"'
expect 'data must not include comm' src/data/a.cpp '#include "syncbn/comm/world.hpp"'
expect 'train must not include ops' src/train/a.cpp '#  include "ops/backend.hpp"'
expect 'train must not include study' src/train/a.cpp '#include "study/a.hpp"'
expect 'optim must not include nn' src/optim/a.cpp '#include "nn/normalization/batch_norm_pass.hpp"'
expect 'private' include/syncbn/nn/a.hpp '#pragma once' '#include "ops/backend.hpp"'
expect 'third-party' include/syncbn/nn/a.hpp '#pragma once' '#include <fmt/core.h>'
expect 'third-party' include/syncbn/nn/a.hpp '#pragma once' '#include <dnnl.hpp>'
expect 'train/storage must not include train ' src/train/storage/a.cpp '#include "train/experiment.hpp"'
expect '' src/train/storage/a.cpp '#include "train/storage/b.hpp"' '#include "syncbn/train/config.hpp"' '#include "nn/arena.hpp"'
expect 'comm must not include comm/gradients' src/comm/a.cpp '#include "comm/gradients/b.hpp"'
expect '' src/comm/links/a.cpp '#include "comm/order/tree.hpp"' '#include "comm/links/b.hpp"' '#include "syncbn/comm/world.hpp"'
expect 'src/comm' src/nn/a.cpp '#include <mpi.h>'
expect 'src/ops' src/nn/a.cpp '#include <dnnl.hpp>'
expect 'src/ops' src/train/a.cpp '#include "omp.h"'
expect 'src/ops' src/optim/a.cpp '#include <hwy/highway.h>'
expect 'src/ops/cuda' src/nn/a.cpp '#include <cuda_runtime.h>'
expect 'src/ops/cuda' src/ops/cpu/a.cpp '#include <cudnn.h>'
expect 'src/comm' src/ops/cuda/a.cu '#include <nccl.h>'
expect 'Eigen/Core belongs' src/nn/a.hpp '#pragma once' '#include <Eigen/Core>'
expect 'pragma once' src/nn/a.hpp '#include <vector>'
expect 'pragma once' src/ops/cuda/a.cuh '#include <cuda_bf16.h>'
expect 'known modules' src/misc/a.cpp 'int x;'
expect 'unfinished' src/nn/a.cpp "// TO""DO: later"
# shellcheck disable=SC2046  # 401 separate lines are wanted
expect 'more than 400 lines' src/nn/a.cpp $(seq 401)

[ $failures = 0 ] || exit 1
