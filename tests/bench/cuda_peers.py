#!/usr/bin/env python3
"""This tree against PyTorch on the same GPU, one after the other.

usage: cuda_peers.py kernels BENCH_CUDA_KERNELS [--quick] [--within SECONDS]
       cuda_peers.py steps SYNCBN_PROGRAM [--quick] [--within SECONDS]

kernels  batch norm on the shapes of ResNet-50, channels last: what bench_cuda_kernels measures, then PyTorch's kernels for
         synchronized statistics (without their messages) and cuDNN's local batch norm
steps    training steps of ResNet-20 and ResNet-50, data loading and statistics included, against PyTorch's on images that
         are already there (channels last; eager and compiled); and 8 workers on the device against one

Each has a summary at its end. What there is no more time for is left out, and said.
"""
import collections
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import torch
    from torch.nn import functional as F
    PROBLEM = "" if torch.cuda.is_available() else "its torch sees no CUDA device"
except ImportError:
    torch, PROBLEM = None, "it has no torch"

BEGIN = time.monotonic()
COLD = 512 << 20  # bytes: several times the largest second-level cache
TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def option(name, default):
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


# On this machine our programs may need libraries that would not fit Python's own.
OWN_ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": os.environ.get("SYNCBN_LIBRARY_PATH",
                                                                   os.environ.get("LD_LIBRARY_PATH", ""))}
QUICK, WITHIN = "--quick" in sys.argv, option("--within", 1e9)


def seconds_left():
    return WITHIN - (time.monotonic() - BEGIN)


def seconds_of(body, block_ms, blocks=7, warm_up=5):
    """Median time of body(i) on the device; i counts up, so that it can rotate buffers."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    i = 0

    def block(calls):
        nonlocal i
        begin.record()
        for _ in range(calls):
            body(i)
            i += 1
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    block(warm_up)
    calls = max(3, min(2000, round(block_ms / max(block(3), 1e-3))))
    return statistics.median(block(calls) for _ in range(blocks)) / 1000


def run_to_end(command):
    limit = max(10, min(seconds_left(), 3600))
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=OWN_ENVIRONMENT, timeout=limit)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no end after {limit:.0f} s")


# ---- kernels ----

ROW = re.compile(r"^ *(\w+) +(\d+) +(\d+) +(\d+)  (\S.*?) +([\d.]+) us +(\d+) GB/s +(\d+) %$")


def own_kernels(program):
    """{(type, images, channels, side): {what: (seconds, share of the copy bandwidth)}}"""
    rows = collections.defaultdict(dict)
    command = [program, "64"] if QUICK else [program, "64", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=OWN_ENVIRONMENT) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            match = ROW.match(line.rstrip())
            if match:
                kind, n, channels, side, what, us, _, share = match.groups()
                rows[kind, int(n), int(channels), int(side)][what] = float(us) / 1e6, float(share) / 100
    if process.returncode != 0 or not rows:
        sys.exit(f"cuda_peers.py: {program} failed ({process.returncode})")
    return rows


class PeerNorm:
    """PyTorch's passes over one shape; every call uses the next of several tensors, so that none is still in the cache."""

    def __init__(self, kind, n, channels, side):
        dtype = getattr(torch, TYPES[kind])
        count = COLD // (n * channels * side * side * dtype.itemsize) + 2

        def tensors():
            return [torch.randn(n, channels, side, side, dtype=dtype, device="cuda").contiguous(
                memory_format=torch.channels_last) for _ in range(count)]

        self.x, self.y, self.dy, self.add = tensors(), tensors(), tensors(), tensors()
        self.count = count
        self.weight, self.bias = torch.ones(channels, device="cuda"), torch.zeros(channels, device="cuda")
        self.mean, self.var = torch.zeros(channels, device="cuda"), torch.ones(channels, device="cuda")
        positions = n * side * side
        self.counts = torch.full((1,), positions, dtype=torch.float32, device="cuda")
        self.positions = torch.full((1,), positions, dtype=torch.int32, device="cuda")
        self.saved = torch.batch_norm_stats(self.x[0], 1e-5)
        self.saved_by_cudnn = self.cudnn_forward(0)[1:]

    def synced_forward(self, i, relu, add=False):
        x = self.x[i % self.count]
        mean, invstd = torch.batch_norm_stats(x, 1e-5)
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            x, mean.unsqueeze(0), invstd.unsqueeze(0), self.mean, self.var, 0.1, 1e-5, self.counts)
        y = torch.batch_norm_elemt(x, self.weight, self.bias, mean, invstd, 1e-5)
        if add:
            y += self.add[i % self.count]
        return torch.relu_(y) if relu else y

    def synced_backward(self, i, relu):
        x, dy = self.x[i % self.count], self.dy[i % self.count]
        mean, invstd = self.saved
        if relu:
            dy = torch.ops.aten.threshold_backward(dy, self.y[i % self.count], 0)
        sums = torch.batch_norm_backward_reduce(dy, x, mean, invstd, self.weight, True, True, True)
        return torch.batch_norm_backward_elemt(dy, x, mean, invstd, self.weight, sums[0], sums[1], self.positions)

    def cudnn_forward(self, i):
        return torch.ops.aten.cudnn_batch_norm(self.x[i % self.count], self.weight, self.bias, self.mean, self.var, True,
                                               0.1, 1e-5)

    def cudnn_backward(self, i):
        mean, var, reserve = self.saved_by_cudnn
        return torch.ops.aten.cudnn_batch_norm_backward(self.x[i % self.count], self.dy[i % self.count], self.weight,
                                                        self.mean, self.var, mean, var, 1e-5, reserve)


def compare_kernels(program):
    own = own_kernels(program)
    if PROBLEM:
        return print(f"against PyTorch: skipped, {sys.executable}: {PROBLEM}")
    print(f"\nagainst PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}: microseconds, and how many times "
          "as fast ours is\n"
          "  synchronized: its kernels, and its ReLU and addition behind; cuDNN: local, without either\n"
          f"{'type':>4} {'n':>4} {'C':>5} {'size':>4}  {'pass':22} {'ours':>8} {'of copy':>8} {'synchronized':>14} "
          f"{'ratio':>6} {'cuDNN':>8} {'ratio':>6}", flush=True)
    figures = collections.defaultdict(list)
    for shape, rows in own.items():
        if seconds_left() < 5:
            print(f"the others: no time left ({WITHIN:.0f} s)")
            break
        peer = PeerNorm(*shape)
        alone, both = "normalize + add + ReLU", rows["statistics"][0] + rows["normalize + add + ReLU"][0]
        for name, ours, share, synced, cudnn in (
                ("forward + ReLU", *rows["forward + ReLU"], lambda i: peer.synced_forward(i, True), peer.cudnn_forward),
                ("forward + add + ReLU", both, rows[alone][1], lambda i: peer.synced_forward(i, True, True), None),
                ("backward + ReLU", *rows["backward + ReLU"], lambda i: peer.synced_backward(i, True),
                 peer.cudnn_backward)):
            t = seconds_of(synced, 3)
            line = (f"{shape[0]:>4} {shape[1]:>4} {shape[2]:>5} {shape[3]:>4}  {name:22} {1e6 * ours:8.1f} "
                    f"{100 * share:6.0f} % {1e6 * t:14.1f} {t / ours:6.2f}")
            figures[name, "of the copy bandwidth"].append(share)
            figures[name, "x PyTorch's synchronized kernels"].append(t / ours)
            if cudnn:
                t = seconds_of(cudnn, 3)
                line += f" {1e6 * t:8.1f} {t / ours:6.2f}"
                figures[name, "x cuDNN's local batch norm"].append(t / ours)
            print(line, flush=True)
        del peer
        torch.cuda.empty_cache()
    for (name, what), values in figures.items():
        print(f"SUMMARY {name}: median {statistics.median(values):.2f} {what}, least {min(values):.2f}")


# ---- steps ----

class Ours:
    """Trains as its users start it, on the built-in images."""

    GUESS = {"resnet20": 40_000, "resnet50": 1_500}  # images per second, for the number of steps

    def __init__(self, program, folder):
        self.program, self.folder, self.runs = program, folder, 0
        self.failed = False
        keys = run_to_end([program, "train", "--help"]).stdout
        self.precisions = ["float32"] + [p for p in ("tf32", "bfloat16") if "precision" in keys and p in keys]

    def rate(self, model, precision, workers, batch, seconds):
        """Images per second, and the share of the time in which workers waited for each other's statistics."""
        self.runs += 1
        out, total = f"{self.folder}/{self.runs}", workers * batch
        steps = max(20, round(seconds * self.GUESS[model] / total))
        data = (["data.train_limit=10000"] if model == "resnet20" else
                ["data.image_size=224", "data.threads=12", f"data.train_limit={4 * total}"])
        done = run_to_end(
            [self.program, "train", "/dev/null", "device=cuda", f"model.name={model}", f"workers={workers}",
             f"batch_per_worker={batch}", *([f"precision={precision}"] if len(self.precisions) > 1 else []),
             "data.kind=builtin", *data, "data.test_limit=1", "data.drop_last=true", "optimizer.lr=0.01",
             "optimizer.momentum=0.9", "optimizer.weight_decay=0.0001", f"train.steps={steps}",
             f"train.log_every={steps}", "train.eval_every=0", "checkpoint.every=0", "checkpoint.keep_best=false",
             f"output.dir={out}"])
        if done.returncode != 0:
            print(f"FAILED: {model}, {workers} x {batch}, {precision}: " + " ".join(done.stderr.strip().splitlines()[-1:]),
                  flush=True)
            self.failed = True
            return None
        with open(f"{out}/summary.json", encoding="utf-8") as file:
            summary = json.load(file)
        with open(f"{out}/metrics.jsonl", encoding="utf-8") as file:
            waited = json.loads(file.readline())["wait_statistics"]
        shutil.rmtree(out)
        return summary["images_per_second"], waited


class PeerStep:
    def __init__(self, model, precision, batch):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        if model == "resnet20":
            import peers
            net, side, classes = peers.build("resnet20", "local"), 32, 10
        else:
            import torchvision
            net, side, classes = torchvision.models.resnet50(num_classes=10), 224, 10
        self.net = net.cuda().to(memory_format=torch.channels_last).train()
        self.x = torch.randn(batch, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(0, classes, (batch,), device="cuda")
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.precision, self.batch = precision, batch

    def rate(self, compiled):
        net = torch.compile(self.net) if compiled else self.net

        def step(_):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.precision == "bfloat16"):
                loss = F.cross_entropy(net(self.x), self.y)
            loss.backward()
            self.optimizer.step()

        return self.batch / seconds_of(step, 300, blocks=3, warm_up=8)


def peer_rate(model, precision, batch, compiled):
    if PROBLEM or seconds_left() < (70 if compiled else 5):
        return None
    try:
        return PeerStep(model, precision, batch).rate(compiled)
    except Exception as error:  # torchvision is missing, memory is too small, the compiler fails
        print(f"PyTorch: {model} {batch} {precision}: {str(error).strip().splitlines()[0]}", flush=True)
        return None
    finally:
        torch.cuda.empty_cache()


def compare_workers(ours):
    one = ours.rate("resnet20", "float32", 1, 256, 2)
    eight = ours.rate("resnet20", "float32", 8, 32, 2)
    if one and eight:
        print(f"SUMMARY ResNet-20, 256 images: 1 worker {one[0]:.0f} images/s, 8 workers of 32 with synchronized "
              f"statistics {eight[0]:.0f} ({100 * (one[0] / eight[0] - 1):+.1f} % time; {100 * eight[1]:.0f} % waiting)",
              flush=True)


def compare_steps(program):
    rows = ([("resnet20", 128, "float32"), ("resnet20", 512, "float32"), ("resnet50", 64, "bfloat16")] if QUICK else
            [("resnet50", 256, "bfloat16"), ("resnet20", 128, "bfloat16"), ("resnet20", 512, "bfloat16"),
             ("resnet50", 64, "bfloat16"), ("resnet20", 128, "float32"), ("resnet20", 512, "float32"),
             ("resnet50", 64, "float32")])
    print("PyTorch: " + (f"skipped, {sys.executable}: {PROBLEM}" if PROBLEM else torch.__version__), flush=True)
    with tempfile.TemporaryDirectory(prefix="syncbn-bench-") as folder:
        ours = Ours(program, folder)
        compare_workers(ours)
        rates = {}
        for row in rows:
            if seconds_left() < 15:
                print(f"{row}: no time left ({WITHIN:.0f} s)")
                continue
            model, batch, wanted = row
            precision = wanted if wanted in ours.precisions else ours.precisions[-1]
            own = ours.rate(model, precision, 1, batch, 2 if QUICK else 3)
            rates[row] = [precision, own and own[0], peer_rate(model, wanted, batch, False), None]
            print(f"{model} {batch} {precision}: {rates[row][1] or 0:.0f}; PyTorch eager {rates[row][2] or 0:.0f}",
                  flush=True)
        for row in rows[:0] if QUICK else [r for r in rows if r in rates]:
            rates[row][3] = peer_rate(row[0], row[2], row[1], True)
    for (model, batch, wanted), (precision, own, eager, compiled) in rates.items():
        text = f"{own:.0f} images/s in {precision}" if own else "failed"
        for name, other in (("eager", eager), ("compiled", compiled)):
            text += f"; PyTorch {name} " + (f"{other:.0f}, ours {own / other:.2f} x" if own and other else "not measured")
        print(f"SUMMARY {model}, {batch} images, {wanted}: {text}")
    if ours.failed:
        sys.exit(1)


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("kernels", "steps"):
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[2])
    (compare_kernels if sys.argv[1] == "kernels" else compare_steps)(program)


if __name__ == "__main__":
    main()
