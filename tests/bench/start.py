#!/usr/bin/env python3
"""Time from mpirun to the first update of the weights, against an MPI program that does nothing, in turn.

usage: start.py SYNCBN_PROGRAM NOTHING_PROGRAM [--quick]

ResNet-20, four ranks, on CIFAR-10 where `syncbn data check cifar10` finds it, and on the built-in images.
"""
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RANKS = 4
MPIRUN = ("mpirun", "-n", str(RANKS))


def first_update(program, data):
    """Seconds from mpirun to the line that reports the first update."""
    out = tempfile.mkdtemp(prefix="syncbn-bench-")
    begin = time.perf_counter()
    with subprocess.Popen(
            [*MPIRUN, program, "train", "/dev/null", f"workers={RANKS}", f"batch_per_worker={128 // RANKS}",
             "model.name=resnet20", f"data.kind={data}", "data.test_limit=16", "train.steps=2", "train.log_every=1",
             "train.eval_every=0", "checkpoint.every=0", "checkpoint.keep_best=false", f"output.dir={out}"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        seconds = None
        for line in process.stderr:
            if seconds is None and line.startswith("train"):
                seconds = time.perf_counter() - begin
    shutil.rmtree(out, ignore_errors=True)
    if seconds is None:
        sys.exit("start.py: " + line.strip())
    return seconds


def main():
    program, nothing = sys.argv[1:3]
    blocks = 3 if "--quick" in sys.argv else 7
    present = subprocess.run([program, "data", "check", "cifar10"], capture_output=True, check=False).returncode == 0
    own, empty = {data: [] for data in (["cifar10"] if present else []) + ["builtin"]}, []
    for _ in range(blocks):
        begin = time.perf_counter()
        subprocess.run([*MPIRUN, nothing], check=True)
        empty.append(time.perf_counter() - begin)
        for data, seconds in own.items():
            seconds.append(first_update(program, data))
    print(f"mpirun -n {RANKS} until a program that does nothing has ended: {statistics.median(empty):.2f} s")
    for data, seconds in own.items():
        over = statistics.median(o - e for o, e in zip(seconds, empty))
        print(f"until the first update of ResNet-20 on {data}, 128 images: {statistics.median(seconds):.2f} s, "
              f"{over:.2f} s more")


if __name__ == "__main__":
    main()
