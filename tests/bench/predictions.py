#!/usr/bin/env python3
"""What `syncbn explain --measure` predicts for a training step, against what the step takes, in turn.

usage: predictions.py SYNCBN_PROGRAM SIMULATED_HOSTS_PROGRAM [--quick]

ResNet-20 with synchronized statistics on the built-in images, 4 workers: one rank with all cores, 2 and 4 ranks of one
core, and ranks on simulated hosts with links of 1 Gbit/s, where this machine can simulate them.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

WORKERS = 4
SETTINGS = [("1 rank, all cores", 1, []), ("2 ranks", 2, ["mpirun", "-n", "2"]), ("4 ranks", 4, ["mpirun", "-n", "4"]),
            ("2 hosts, 1 Gbit/s", 2, ["HOSTS", "2", "mpirun", "-n", "2"]),
            ("4 hosts, 1 Gbit/s", 4, ["HOSTS", "4", "mpirun", "-n", "4"])]
CANNOT_SIMULATE = 77


def experiment(images):
    return ["/dev/null", f"workers={WORKERS}", f"batch_per_worker={images}", "model.name=resnet20", "norm.group=all",
            "data.kind=builtin", "data.train_limit=4096", "data.test_limit=16"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "SIMULATED_RATE": "1gbit"})
    if done.returncode not in (0, CANNOT_SIMULATE):
        sys.exit("predictions.py: " + (done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return None if done.returncode == CANNOT_SIMULATE else done.stdout


def predicted_ms(program, launcher, ranks, images):
    text = run([*launcher, program, "explain", *experiment(images), "--measure"])
    if text is None:
        return None
    table = text[text.index("most of it"):].splitlines()[1:]
    return next(float(row.split()[1]) for row in table if row.split()[:1] == [str(ranks)])


def measured_ms(program, launcher, ranks, images, steps):
    out = tempfile.mkdtemp(prefix="syncbn-bench-")
    run([*launcher, program, "train", *experiment(images), *(["threads=1"] if ranks > 1 else []),
         f"train.steps={steps}", f"train.log_every={steps}", "train.eval_every=0", "checkpoint.every=0",
         "checkpoint.keep_best=false", f"output.dir={out}/run"])
    with open(f"{out}/run/summary.json", encoding="utf-8") as file:
        rate = json.load(file)["images_per_second"]
    shutil.rmtree(out)
    return 1e3 * WORKERS * images / rate


def main():
    program, hosts = (os.path.abspath(path) for path in sys.argv[1:3])
    quick = "--quick" in sys.argv
    print(f"{'ms per step of ResNet-20':24} {'images':>8} {'predicted':>10} {'measured':>9} {'ratio':>6}")
    for images in (2, 32):
        steps = (20 if quick else 60) * 32 // (images + 16)
        for name, ranks, command in SETTINGS:
            launcher = [hosts if word == "HOSTS" else word for word in command]
            pairs = []
            for _ in range(1 if quick else 5):
                predicted = predicted_ms(program, launcher, ranks, images)
                if predicted is None:
                    break
                pairs.append((predicted, measured_ms(program, launcher, ranks, images, steps)))
            if not pairs:
                print(f"{name:24} {images:>8} skipped: hosts cannot be simulated here")
                continue
            predicted, measured = (statistics.median(values) for values in zip(*pairs))
            ratio = statistics.median(p / m for p, m in pairs)
            print(f"{name:24} {images:>8} {predicted:>10.1f} {measured:>9.1f} {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
