#!/usr/bin/env bash
# A disk that takes longer than timeout_s for a checkpoint: the training ends with the weights of an undisturbed one,
# and a stop leaves a checkpoint.
#   slow_disk.sh PROGRAM SLOW_FSYNC_LIBRARY
set -euo pipefail
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../../launch/lib.sh"
mpi_environment 1000 # more than cores: other tests run beside

program=$1 library=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

settings=(quickstart workers=4 data.train_limit=300 data.test_limit=100 train.eval_every=0 timeout_s=3)
slow=(env "LD_PRELOAD=$library" SLOW_FSYNC_S=8)
failed() { echo "$1"; tail -n 20 "$2"; exit 1; }

mpirun -n 2 "$program" train "${settings[@]}" train.steps=60 "output.dir=$work/fast" >"$work/fast.log" 2>&1 ||
  failed "without the slow disk:" "$work/fast.log"
mpirun -n 2 "${slow[@]}" "$program" train "${settings[@]}" train.steps=60 checkpoint.every=10 \
  "output.dir=$work/slow" >"$work/slow.log" 2>&1 || failed "failed for a slow disk:" "$work/slow.log"
cmp "$work/fast/final.safetensors" "$work/slow/final.safetensors"
grep -q "the one before is still being written" "$work/slow.log" || failed "the disk was not slow:" "$work/slow.log"
echo "checkpoints of 8 s with a limit of 3 s: ended well"

"${slow[@]}" "$program" train "${settings[@]}" threads=4 train.steps=1000000 "output.dir=$work/stopped" \
  >"$work/stopped.log" 2>&1 &
while [[ ! -s $work/stopped/metrics.jsonl ]]; do
  kill -0 $! || failed "did not start:" "$work/stopped.log"
  sleep 0.1
done
kill -TERM $!
code=0
wait $! || code=$?
[[ $code == 75 ]] || failed "exit code $code instead of 75:" "$work/stopped.log"
[[ -n $(find "$work/stopped/checkpoints" -name manifest.json) ]] || failed "no checkpoint:" "$work/stopped.log"
echo "stopped: its checkpoint is there"
