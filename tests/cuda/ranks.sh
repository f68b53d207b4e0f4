#!/bin/bash
# Usage: ranks.sh PROGRAM MODULE MPIRUN
#
# Trains with `device: cuda` and the given CUDA backend on 1, 2 and 3 ranks, of which some share a device, and compares
# the weights to the bit.
set -euo pipefail
program=$1 mpirun=$3
export SYNCBN_CUDA_MODULE=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

train() { # RANKS NAME OVERRIDE...
  timeout -k 5 120 "$mpirun" -n "$1" "$program" train quickstart device=cuda workers=3 batch_per_worker=1 \
    data.train_limit=5 data.test_limit=3 train.epochs=1 bucket_kib=64 "output.dir=$dir/$2" "${@:3}" \
    > "$dir/log" 2>&1 || { cat "$dir/log" && exit 1; }
}

train 1 one
train 2 two overlap=true
train 3 three overlap=false
cmp "$dir/one/final.safetensors" "$dir/two/final.safetensors"
cmp "$dir/one/final.safetensors" "$dir/three/final.safetensors"
