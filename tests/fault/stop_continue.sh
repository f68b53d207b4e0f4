#!/usr/bin/env bash
# Stops all ranks (SIGSTOP, as batch systems do to suspend a job) for longer than timeout_s, lets them continue, and
# expects the end of an undisturbed run. Then stops one rank for good, and expects the others to say which. The ranks of
# a study, stopped one after the other, are named as well, but the study goes on.
#   stop_continue.sh PROGRAM
set -euo pipefail
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../../launch/lib.sh"
mpi_environment 1000 # more than cores: other tests run beside

program=$1
work=$(mktemp -d)
launcher=
trap '[[ -z $launcher ]] || pkill -9 -P "$launcher" || true; rm -rf "$work"' EXIT

start() {  # start DIRECTORY STEPS: in the background, until some steps are done
  mpirun -n 2 "$program" train quickstart workers=4 batch_per_worker=2 data.test_limit=200 train.steps="$2" \
    train.log_every=1 train.eval_every=0 checkpoint.every=0 timeout_s=3 "output.dir=$1" >"$1.log" 2>&1 &
  launcher=$!
  while [[ ! -s $1/metrics.jsonl ]]; do
    kill -0 "$launcher" || { tail -n 20 "$1.log"; exit 1; }
    sleep 0.05
  done
}

start "$work/undisturbed" 400
wait "$launcher"

start "$work/stopped" 400
pkill -STOP -P "$launcher"
sleep 8
[[ ! -e $work/stopped/final.safetensors ]] || { echo "it ended before it was stopped: more steps are needed"; exit 1; }
pkill -CONT -P "$launcher"
wait "$launcher" || { echo "failed after having been stopped:"; tail -n 20 "$work/stopped.log"; exit 1; }
cmp "$work/undisturbed/final.safetensors" "$work/stopped/final.safetensors"
echo "stopped for 8 s with a limit of 3 s: ended well"

start "$work/stuck" 1000000
victim=$(pgrep -P "$launcher" | tail -n 1)
kill -STOP "$victim"
if wait "$launcher"; then echo "it ended well without one of its ranks"; exit 1; fi
grep -q "has waited .* s for rank [01] (.*: dead, stuck or on another path" "$work/stuck.log" ||
  { echo "did not name the stopped rank:"; tail -n 20 "$work/stuck.log"; exit 1; }
grep -q "has waited [0-9.]* s for rank [01] (.* s this ends the job" "$work/stuck.log" ||
  { echo "did not say early who is waited for:"; tail -n 20 "$work/stuck.log"; exit 1; }
echo "one rank stopped for good: $(grep -m 1 -o "has waited .*" "$work/stuck.log")"

printf 'base: quickstart\nset: {workers: 1, train.steps: 10000000, timeout_s: 1}\nseeds: 2\n' >"$work/long.yaml"
mpirun -n 2 "$program" study "$work/long.yaml" --jobs 2 --output "$work/study" >"$work/study.log" 2>&1 &
launcher=$!
await() {  # await COMMAND...: until it succeeds
  until "$@" >/dev/null 2>&1; do
    kill -0 "$launcher" || { tail -n 20 "$work/study.log"; exit 1; }
    sleep 0.1
  done
}
both_train() { (($(find "$work/study/trials" -name metrics.jsonl | wc -l) == 2)); }
await both_train
for victim in $(pgrep -P "$launcher"); do
  rank=$(tr '\0' '\n' <"/proc/$victim/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p')
  kill -STOP "$victim"
  await grep -q "rank $rank (.*) has not been heard from for [5-9] s: stopped, stuck or unreachable" "$work/study.log"
  kill -CONT "$victim"
  await grep -q "rank $rank (.*) is heard from again" "$work/study.log"
done
grep -q "rank 1 .*; it works on long, seed" "$work/study.log" ||
  { echo "did not name the trial:"; tail -n 20 "$work/study.log"; exit 1; }
kill -USR1 "$launcher"
code=0
wait "$launcher" || code=$?
((code == 75)) || { echo "exit code $code of the study:"; tail -n 20 "$work/study.log"; exit 1; }
echo "ranks of a study stopped: it went on, and named them"
