#!/usr/bin/env bash
# Kills random ranks with SIGKILL at random moments, each time resumes on another number of ranks, and compares the end
# with that of an undisturbed run: final.safetensors and every logged loss must be the same to the bit.
#   kill_resume.sh PROGRAM [KILLS] [SEED]
set -euo pipefail
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../../launch/lib.sh"
mpi_environment 1000 # more than cores: other tests run beside

program=$1
kills=${2:-3}
RANDOM=${3:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 45 images are the last batch of an epoch of 1,005: 13 of 16 workers get three, the others two.
keys=(quickstart workers=16 batch_per_worker=4 data.train_limit=1005 data.test_limit=200 data.crop_padding=4
  data.horizontal_flip=true train.steps=$((40 + 12 * kills)) train.log_every=1 train.eval_every=25 checkpoint.every=3)

train() {  # train RANKS DIRECTORY [OPTION...]
  local ranks=$1 directory=$2
  shift 2
  mpirun -n "$ranks" "$program" train "${keys[@]}" "output.dir=$directory" "$@" >>"$work/log" 2>&1
}

losses() { sed -E 's/,"(seconds|images_per_second|wait_[a-z]+)":[^,}]*//g' "$1/metrics.jsonl"; }

lines() { if [[ -e $work/disturbed/metrics.jsonl ]]; then wc -l <"$work/disturbed/metrics.jsonl"; else echo 0; fi; }

train 2 "$work/undisturbed" || { tail -n 20 "$work/log"; exit 1; }

done_kills=0
while ((done_kills < kills)); do
  ranks=$((RANDOM % 4 + 1))
  goal=$(($(lines) + RANDOM % 12))
  train "$ranks" "$work/disturbed" --resume &
  job=$!
  # Once in a while right at the start; else behind a random step, which may be in the middle of a save.
  while ((RANDOM % 400 > 0 && $(lines) <= goal)) && kill -0 "$job" 2>/dev/null; do sleep 0.02; done
  launcher=$(pgrep -P "$job" -x 'mpirun|prterun' || echo none) # prterun: Open MPI 5
  mapfile -t processes < <(pgrep -P "$launcher" -x "$(basename "$program")" 2>/dev/null)
  if ((${#processes[@]} > 0)); then
    kill -9 "${processes[RANDOM % ${#processes[@]}]}" && done_kills=$((done_kills + 1))
    echo "kill $done_kills: one of $ranks ranks, $(find "$work/disturbed/checkpoints" -name manifest.json 2>/dev/null | wc -l) checkpoints so far"
  fi
  if wait "$job"; then
    [[ -e $work/disturbed/final.safetensors ]] && ((done_kills < kills)) && rm -rf "$work/disturbed"  # too fast: once more
  fi
done
train 3 "$work/disturbed" --resume || { tail -n 20 "$work/log"; exit 1; }

cmp "$work/undisturbed/final.safetensors" "$work/disturbed/final.safetensors"
cmp <(losses "$work/undisturbed") <(losses "$work/disturbed")
echo "after $kills kills: the same weights and losses as without"
