#!/usr/bin/env python3
"""Training steps against PyTorch's DistributedDataParallel (gloo) on the same cores, in turn, block by block.

usage: peers.py SYNCBN_PROGRAM [--memory] [--quick]

Four processes of one thread each train ResNet-20 (channels_last) and a multi-layer perceptron on random images, with
local batch norm and with a synchronized one: torch.nn.SyncBatchNorm refuses CPU tensors, so mean and mean square are
summed by all-reduce, as detectron2's NaiveSyncBatchNorm does. Ours trains as its users start it.
"""
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

PROCESSES = 4


# ---- the peer: one of PROCESSES children, which obeys lines "variant steps" from its standard input ----

def build(model, variant):
    import torch
    from torch import distributed, nn
    from torch.nn import functional as F

    class AllReduce(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            x = x.clone()
            distributed.all_reduce(x)
            return x

        @staticmethod
        def backward(_, gradient):
            gradient = gradient.contiguous().clone()
            distributed.all_reduce(gradient)
            return gradient

    class SyncedNorm(nn.Module):
        def __init__(self, channels, axes):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.axes = axes

        def forward(self, x):
            sums = torch.cat([x.mean(self.axes), (x * x).mean(self.axes)])
            mean, square = (AllReduce.apply(sums) / PROCESSES).chunk(2)
            var = square - mean * mean
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var, 0.1)
            scale = self.weight * torch.rsqrt(var + 1e-5)
            shape = [1, -1] + [1] * (x.dim() - 2)
            return x * scale.view(shape) + (self.bias - mean * scale).view(shape)

    def norm(channels, axes):
        if variant == "synced":
            return SyncedNorm(channels, axes)
        return nn.BatchNorm2d(channels) if len(axes) == 3 else nn.BatchNorm1d(channels)

    class Block(nn.Module):
        def __init__(self, c_in, c_out, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = norm(c_out, [0, 2, 3]), norm(c_out, [0, 2, 3])
            self.pad, self.stride = (c_out - c_in) // 2, stride

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.stride > 1:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
            return F.relu(x + y)

    class ResNet20(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), norm(16, [0, 2, 3])
            widths = [16] * 4 + [32] * 3 + [64] * 3
            self.blocks = nn.Sequential(*(Block(i, o, o // i) for i, o in zip(widths, widths[1:])))
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))

    if model == "resnet20":
        return ResNet20().to(memory_format=torch.channels_last)
    return nn.Sequential(nn.Linear(784, 256, bias=False), norm(256, [0]), nn.ReLU(),
                         nn.Linear(256, 256, bias=False), norm(256, [0]), nn.ReLU(), nn.Linear(256, 10))


def be_peer(model, batch, rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    import torch
    from torch import distributed, nn

    torch.set_num_threads(1)
    torch.manual_seed(rank)
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    share = batch // PROCESSES
    x = torch.randn(share, 3, 32, 32) if model == "resnet20" else torch.randn(share, 784)
    if model == "resnet20":
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (share,))
    trainings = {}
    for variant in ("local", "synced"):
        net = nn.parallel.DistributedDataParallel(build(model, variant), broadcast_buffers=False)
        trainings[variant] = net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for line in sys.stdin:
        variant, steps = line.split()
        net, optimizer = trainings[variant]
        distributed.barrier()
        begin = time.perf_counter()
        for _ in range(int(steps)):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        distributed.barrier()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - begin, memory, flush=True)


class Peers:
    def __init__(self, model, batch):
        self.batch = batch
        port = str(20000 + os.getpid() % 20000)
        self.children = [
            subprocess.Popen([sys.executable, __file__, "--peer", model, str(batch), str(rank), port],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"}) for rank in range(PROCESSES)]

    def run(self, variant, steps):
        """Images per second, and MB of the largest process."""
        for child in self.children:
            child.stdin.write(f"{variant} {steps}\n")
            child.stdin.flush()
        answers = [[float(word) for word in child.stdout.readline().split()] for child in self.children]
        return steps * self.batch / answers[0][0], max(memory for _, memory in answers)

    def close(self):
        for child in self.children:
            child.stdin.close()
        for child in self.children:
            child.wait()


# ---- ours ----

def write_random_mnist(folder, images=4096):
    for kind, count in (("train", images), ("t10k", 64)):
        with open(f"{folder}/{kind}-images-idx3-ubyte", "wb") as file:
            file.write(struct.pack(">4i", 2051, count, 28, 28) + os.urandom(count * 784))
        with open(f"{folder}/{kind}-labels-idx1-ubyte", "wb") as file:
            file.write(struct.pack(">2i", 2049, count) + bytes(b % 10 for b in os.urandom(count)))


class Ours:
    def __init__(self, program, folder, model, batch):
        self.program, self.folder, self.model, self.batch, self.runs = program, folder, model, batch, 0

    def run(self, variant, steps, launcher=()):
        """Images per second, MB of the largest rank."""
        self.runs += 1
        out = f"{self.folder}/{self.model}-{self.batch}-{self.runs}"
        data = ["data.kind=builtin"] if self.model == "resnet20" else ["data.kind=mnist", f"data.path={self.folder}"]
        model = ["model.name=resnet20"] if self.model == "resnet20" else ["model.name=mlp", "model.hidden=[256, 256]"]
        done = subprocess.run(
            [*launcher, self.program, "train", "/dev/null", f"workers={PROCESSES}",
             f"batch_per_worker={self.batch // PROCESSES}", f"norm.group={'all' if variant == 'synced' else 1}", *data,
             *model, "data.test_limit=1", "optimizer.lr=0.01", "optimizer.momentum=0.9",
             f"train.steps={steps}", f"train.log_every={steps}", "train.eval_every=0", "checkpoint.every=0",
             "checkpoint.keep_best=false", f"output.dir={out}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit("peers.py: " + done.stderr.strip().splitlines()[-1])
        with open(f"{out}/summary.json", encoding="utf-8") as file:
            summary = json.load(file)
        shutil.rmtree(out)
        return summary["images_per_second"], summary["peak_rss_bytes"] / 2**20


def compare(program, folder, model, batch, blocks, seconds):
    peers, ours = Peers(model, batch), Ours(program, folder, model, batch)
    variants = ("local", "synced")
    steps = {v: max(3, int(seconds * peers.run(v, 3)[0] / batch)) for v in variants}
    own_steps = {v: max(3, int(seconds * ours.run(v, 5)[0] / batch)) for v in variants}
    rates = {(who, v): [] for who in ("torch", "ours") for v in variants}
    for _ in range(blocks):
        for v in variants:
            rates["torch", v].append(peers.run(v, steps[v])[0])
            rates["ours", v].append(ours.run(v, own_steps[v])[0])
    peers.close()
    middle = {key: statistics.median(values) for key, values in rates.items()}
    ratio = {v: statistics.median(o / t for o, t in zip(rates["ours", v], rates["torch", v])) for v in variants}
    print(f"{model:9} {batch:6} {middle['torch', 'local']:14.0f} {middle['ours', 'local']:8.0f} {ratio['local']:8.2f}"
          f" {middle['torch', 'synced']:15.0f} {middle['ours', 'synced']:8.0f} {ratio['synced']:8.2f}", flush=True)


def compare_memory(program, folder):
    batch = 128
    peers, ours = Peers("resnet20", batch), Ours(program, folder, "resnet20", batch)
    torch_memory = peers.run("synced", 3)[1]
    peers.close()
    own_memory = ours.run("synced", 3, ("mpirun", "-n", str(PROCESSES)))[1]
    print(f"ResNet-20, 128 images, {PROCESSES} ranks: peak memory of a rank {own_memory:.0f} MB, PyTorch's "
          f"{torch_memory:.0f} MB (ratio {own_memory / torch_memory:.2f})")


def main():
    program, quick = os.path.abspath(sys.argv[1]), "--quick" in sys.argv
    try:
        import torch
    except ImportError:
        print("skipped: this python3 has no torch (Debian: python3-torch)")
        return
    with tempfile.TemporaryDirectory(prefix="syncbn-bench-") as folder:
        write_random_mnist(folder)
        if "--memory" in sys.argv:
            return compare_memory(program, folder)
        print(f"images/s against PyTorch {torch.__version__} (DDP, gloo, {PROCESSES} processes of 1 thread)\n"
              f"{'model':9} {'images':>6} {'torch, local':>14} {'ours':>8} {'ratio':>8} {'torch, synced':>15} {'ours':>8} {'ratio':>8}",
              flush=True)
        for model, batch in (("resnet20", 32), ("resnet20", 128), ("resnet20", 512), ("mlp", 32)):
            compare(program, folder, model, batch, 1 if quick else 5, 0.5 if quick else 1.5)


if __name__ == "__main__":
    if len(sys.argv) == 6 and sys.argv[1] == "--peer":
        be_peer(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
