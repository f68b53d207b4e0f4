#!/bin/bash
# Usage: ranks.sh PROGRAM CUDA_MODULE NCCL_MODULE MPIRUN [DEVICES]
#
# Trains with `device: cuda` on 1, 2 and 3 ranks and compares the weights to the bit: ranks that share a device, then, where
# there are DEVICES enough, ranks with a device each. Without DEVICES the modules are stand-ins, which play any number.
set -euo pipefail
program=$1 mpirun=$4 devices=${5:-}
export SYNCBN_CUDA_MODULE=$2 SYNCBN_NCCL_MODULE=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

train() { # RANKS NAME OVERRIDE...
  timeout -k 5 400 "$mpirun" -n "$1" "$program" train quickstart device=cuda workers=3 batch_per_worker=1 \
    data.train_limit=5 data.test_limit=3 train.epochs=1 bucket_kib=64 "output.dir=$dir/$2" "${@:3}" \
    > "$dir/$2.log" 2>&1 || { cat "$dir/$2.log" && exit 1; }
}

same() { # NAME NAME...
  local first=$1 name
  for name in "${@:2}"; do cmp "$dir/$first/final.safetensors" "$dir/$name/final.safetensors"; done
}

by_way_of_processors() { # NAME REASON
  grep -q "messages go by way of the processors' memory.*$2" "$dir/$1.log" || { cat "$dir/$1.log" && exit 1; }
}

failing() { # LAYER OVERRIDE...
  if (STAND_IN_FAILURE='ncclGroupEnd 4' train 2 "failing-at-$1" "${@:2}" > "$dir/failure"); then exit 1; fi
  grep -q "NCCL: exchanging values: .* (device 0), at layer '$1' step [0-9]" "$dir/failure" ||
    { cat "$dir/failure" && exit 1; }
}

stalling() { # a message between devices that never ends
  if (STAND_IN_FAILURE='stall 4' train 2 stalled timeout_s=4 > "$dir/stall"); then exit 1; fi
  grep -q "at layer 'norm[0-9]*' step 0 has waited 5 s for the devices of other ranks" "$dir/stall" || { cat "$dir/stall" && exit 1; }
}

directly() { # NAME...
  local name
  for name in "$@"; do ! grep 'by way of' "$dir/$name.log" || exit 1; done
}

first=${CUDA_VISIBLE_DEVICES:-0}
sharing() { CUDA_VISIBLE_DEVICES=${first%%,*} "$@"; }
[ -n "$devices" ] || sharing() { "$@"; }

sharing train 1 one
sharing train 2 two overlap=true
sharing train 3 three overlap=false
by_way_of_processors two 'ranks 0 and 1 share a device'
by_way_of_processors three 'ranks 0 and 1 share a device'
same one two three

# With so large weights that float16 leaves out the first updates.
for precision in bfloat16 float16; do
  for ranks in 1 2 3; do
    sharing train "$ranks" "$precision-$ranks" "precision=$precision" norm.type=none model.init=gaussian model.init_std=0.3 \
      optimizer.lr=0.0001 train.epochs=4
  done
  same "$precision"-{1,2,3}
done
for ranks in 1 2 3; do
  left_out=$(grep -c 'the update is left out' "$dir/float16-$ranks.log") || :
  if [ "$left_out" -lt 3 ] || [ "$left_out" -gt 6 ]; then cat "$dir/float16-$ranks.log" && exit 1; fi
done

if [ "${devices:-3}" -lt 3 ]; then
  echo "bits are the same on 1, 2 and 3 ranks of one device; ranks with a device each not tried: there is one of $devices"
  exit
fi
export STAND_IN_DEVICES=own
train 2 two-direct
train 3 three-direct overlap=false
train 2 two-native reduction=native
directly two-direct three-direct two-native
# Groups that lie across ranks, on 3 two of them on the second.
for ranks in 1 2 3; do train "$ranks" "groups-$ranks" workers=8 norm.group=4 data.train_limit=21; done
directly groups-{2,3}
same groups-{1,2,3}
if [ -z "$devices" ]; then
  failing 'norm[0-9]*'
  failing 'gradients\[bucket [0-9]*\]' norm.type=none
  stalling
fi
SYNCBN_NCCL_MODULE=/nowhere train 2 two-without
by_way_of_processors two-without 'this build has no NCCL (/nowhere does not exist)'
same one two-direct three-direct two-without
echo "bits are the same on 1, 2 and 3 ranks, with one device and with one each"
