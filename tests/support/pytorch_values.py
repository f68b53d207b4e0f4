#!/usr/bin/env python3
"""Writes pytorch_values.json, what PyTorch makes of the problems of tests/unit/norm_pytorch_test.cpp, in f64:

    tests/support/pytorch_values.py > tests/support/pytorch_values.json

With --check FILE it compares instead (exit 1 if they differ, 77 without PyTorch).
"""

import json
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(77 if "--check" in sys.argv else str(error))

torch.set_default_dtype(torch.float64)
EPS = 1e-5


def drawn(salt, shape):
    """Uniform in [-2, 2) and exact in f32; the same as drawn() of small_network.hpp."""
    values = []
    for i in range(torch.Size(shape).numel()):
        h = (i * 2654435761 + salt * 40503 + 12345) % 2**32
        h = (h ^ h >> 15) * 2246822519 % 2**32
        values.append((h ^ h >> 13) % 4096 / 1024 - 2)
    return torch.tensor(values).reshape(shape)


def normalize(norm, x, gamma, beta, groups, running=None):
    if norm == "batch":
        return F.batch_norm(x, *(running or (None, None)), gamma, beta, training=True, momentum=0.1, eps=EPS)
    if norm == "group":
        return F.group_norm(x, groups, gamma, beta, EPS)
    if norm == "instance":
        return F.instance_norm(x, weight=gamma, bias=beta, eps=EPS)
    assert norm == "layer"
    each = [-1] + [1] * (x.dim() - 2)
    return F.layer_norm(x, x.shape[1:], eps=EPS) * gamma.reshape(each) + beta.reshape(each)


def layers():
    """One layer: y, and the gradients of sum(y * dy)."""
    out = {}
    for norm in ("batch", "group", "layer", "instance"):
        x, dy = drawn(1, [4, 6, 3, 2]).requires_grad_(), drawn(2, [4, 6, 3, 2])
        gamma, beta = drawn(3, [6]).requires_grad_(), drawn(4, [6]).requires_grad_()
        y = normalize(norm, x, gamma, beta, groups=3)
        (y * dy).sum().backward()
        out[norm] = {"y": y, "dx": x.grad, "d_gamma": gamma.grad, "d_beta": beta.grad}
    for name, momentum in (("momentum", 0.3), ("cumulative", None)):
        layer = torch.nn.BatchNorm2d(6, EPS, momentum)
        for salt in (1, 5, 6):
            layer(drawn(salt, [4, 6, 3, 2]))
        out["batch"][name + "_mean"] = layer.running_mean
        out["batch"][name + "_var"] = layer.running_var
        out["batch"][name + "_eval"] = layer.eval()(drawn(1, [4, 6, 3, 2]))
    module = torch.nn.Conv2d(2, 3, [2, 2], bias=False)
    module = torch.nn.utils.weight_norm(module)
    module.weight_v.data, module.weight_g.data = drawn(1, [3, 2, 2, 2]), drawn(3, [3, 1, 1, 1])
    module(torch.zeros(1, 2, 2, 2))  # makes the weight from both
    module.weight.backward(drawn(2, [3, 2, 2, 2]))
    out["weight"] = {"w": module.weight, "d_v": module.weight_v.grad, "d_g": module.weight_g.grad}
    return out


def network(norm):
    """The small network of small_network.hpp on 12 images: mean loss, gradients, running statistics."""
    shapes = {"conv1": [6, 2, 3, 3], "conv2": [6, 6, 3, 3], "hidden": [12, 96], "fc": [5, 12]}
    norms = {} if norm in ("weight", "none") else {"bn1": 6, "bn2": 6, "bn3": 12}
    if norm == "instance":
        del norms["bn3"]
    parameters, effective = {}, {}

    def parameter(name, shape, salt, scale=1.0, shift=0.0):
        parameters[name] = (drawn(salt, shape) * scale + shift).requires_grad_()
        return parameters[name]

    for salt, (name, shape) in enumerate(shapes.items(), start=100):
        if norm == "weight":
            v = parameter(name + ".weight_v", shape, salt, 0.25)
            g = parameter(name + ".weight_g", [shape[0]] + [1] * (len(shape) - 1), salt + 10, 0.25, 1)
            length = v.reshape(shape[0], -1).norm(dim=1).reshape(g.shape)
            effective[name] = v * (g / length)
        else:
            effective[name] = parameter(name + ".weight", shape, salt, 0.25)
        if len(shape) == 2:
            parameter(name + ".bias", shape[:1], salt + 20, 0.25)
    running = {}
    for salt, (name, c) in enumerate(norms.items(), start=130):
        parameter(name + ".weight", [c], salt, 0.25, 1)
        parameter(name + ".bias", [c], salt + 10, 0.25)
        running[name] = (torch.zeros(c), torch.ones(c))

    def normalized(name, x):
        if name not in norms:
            return x
        groups = 3 if x.dim() == 4 else 1  # group_count(32, ...): at least 2 channels and 16 values
        return normalize(norm, x, parameters[name + ".weight"], parameters[name + ".bias"], groups, running[name])

    images = torch.stack([drawn(id, [2, 8, 8]) for id in range(12)])
    labels = torch.tensor([id * 3 % 5 for id in range(12)])
    x = F.relu(normalized("bn1", F.conv2d(images, effective["conv1"], padding=1)))
    x = F.relu(normalized("bn2", F.conv2d(x, effective["conv2"], padding=1)) + x)
    x = F.max_pool2d(x, 2).flatten(1)
    x = torch.sigmoid(normalized("bn3", F.linear(x, effective["hidden"], parameters["hidden.bias"])))
    x = F.linear(x, effective["fc"], parameters["fc.bias"])
    loss = F.cross_entropy(x, labels, label_smoothing=0.1)
    loss.backward()
    out = {"loss": loss.reshape(1)}
    out["gradients"] = {name: p.grad.flatten()[:: 1 + p.numel() // 24] for name, p in parameters.items()}
    if norm == "batch":
        out["statistics"] = torch.cat([s for pair in running.values() for s in pair])
    return out


def plain(tree):
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [float(f"{v:.9g}") for v in tree.flatten().tolist()]


def main():
    norms = ("batch", "group", "layer", "instance", "weight", "none")
    values = plain({"layers": layers(), "networks": {norm: network(norm) for norm in norms}})
    if "--check" not in sys.argv:
        print(written(values))
        return 0
    with open(sys.argv[-1]) as file:
        return 0 if close(json.load(file), values) else 1


def written(tree, indent=""):
    """JSON with one line per list."""
    if not isinstance(tree, dict):
        return json.dumps(tree)
    lines = [f'{indent} {json.dumps(key)}: {written(value, indent + " ")}' for key, value in tree.items()]
    return "{\n" + ",\n".join(lines) + "\n" + indent + "}"


def close(a, b):
    if isinstance(a, dict) or isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(abs(x - y) <= 1e-8 * max(1, abs(x)) for x, y in zip(a, b))


sys.exit(main())
