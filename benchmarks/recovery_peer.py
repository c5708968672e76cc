"""Prunes and fine-tunes with Torch-Pruning; started by `recovery.py` with a Python that has torch.

    python benchmarks/recovery_peer.py EXPORT.npz SETTINGS   # JSON of what `run` is told

The network is akamaster's CIFAR ResNet with the weights of the Keras model in the export, and must
give that model's answers. Pruned as in the peer's own benchmark of CIFAR: one ranking over all
layers, in small steps until half of the MACs is gone; fine-tuned by SGD (momentum 0.9, Nesterov,
weight decay 5e-4, cosine to zero) on batches of 128, half of the images mirrored. The residual
stream stays whole: its shortcuts pad channels, which the peer cannot cut.
Prints one line of JSON: what goes to the line of the run.
"""

import json
import os
import platform
import resource
import sys
import time

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

BATCH = 128
STEPS = 400  # of the pruner, which is stopped where half of the MACs is gone
IMPORTANCES = {
    "group L2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "group L1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "BN scale": torch_pruning.importance.BNScaleImportance,
}


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.padding:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class ResNet(nn.Module):
    """Images `(batch, 3, 32, 32)` in [0, 1] -> logits."""

    def __init__(self, blocks, mean, variance):
        super().__init__()
        self.register_buffer("mean", mean.reshape(1, 3, 1, 1))
        self.register_buffer("deviation", variance.reshape(1, 3, 1, 1).sqrt())
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1)
        self.layer2 = self._stage(blocks, 16, 32, 2)
        self.layer3 = self._stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def _stage(self, blocks, inputs, outputs, stride):
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1((x - self.mean) / self.deviation)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def read_network(export):
    """The exported network; its layers have the names of Keras' with points for underscores."""
    tensors = {key: torch.from_numpy(export[key]) for key in export.files if "/" in key}
    blocks = sum(key.startswith("layer1") and key.endswith("conv1/0") for key in tensors)
    statistics = (torch.from_numpy(export[key]) for key in ("mean", "variance"))
    model = ResNet(blocks, *statistics).eval()
    for name, module in model.named_modules():
        own = [p for _, p in module.named_parameters(recurse=False)]
        if isinstance(module, nn.BatchNorm2d):
            own += [module.running_mean, module.running_var]
        for i, target in enumerate(own):
            value = tensors[f"{name.replace('.', '_')}/{i}"]
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]  # channels out, in, positions
            with torch.no_grad():
                target.copy_(value.permute(axes))
    found, expected = answers(model, export["questions"]), export["answers"]
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if error > 1e-4:
        sys.exit(f"The network is another one than that exported: answers differ by {error:.1e}.")
    return model


def prune(model, importance):
    """Remove channels inside the blocks until half of the MACs is gone; in place."""
    x = torch.zeros(1, 3, 32, 32)
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=IMPORTANCES[importance](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[model.conv1, model.linear, *(block.conv2 for block in blocks)],
    )
    before = count_macs(model)
    while count_macs(model) > before / 2:
        pruner.step()


def count_macs(model):
    """Of convolutions and the dense layer, as aip_tf counts them."""
    found = []

    def count(module, inputs, output):
        found.append(module.weight[0].numel() * output[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    return sum(found)


def fine_tune(model, images, labels, epochs, rate, generator):
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        order = generator.permutation(len(images))
        for chosen in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            x = as_input(flip(images[chosen], generator))
            loss = functional.cross_entropy(model(x), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    model.eval()


def flip(images, generator):
    is_mirrored = generator.random((len(images), 1, 1, 1)) < 0.5
    return np.where(is_mirrored, images[:, :, ::-1], images)


def as_input(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def answers(model, images):
    parts = [model(as_input(images[i : i + 500])) for i in range(0, len(images), 500)]
    return torch.cat(parts).numpy()


def compare(teacher, student, images, labels):
    """Accuracy, and the divergence of the student's answers from the teacher's in nats."""
    expected, found = (
        torch.from_numpy(answers(m, images)).log_softmax(-1) for m in (teacher, student)
    )
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    accuracy = (found.argmax(-1).numpy() == labels).mean()
    return {"accuracy": round(float(accuracy), 4), "divergence": round(float(divergence), 4)}


def run(export, told):
    """Train on all training images and judge on test images, or hold some out to judge on."""
    torch.manual_seed(told["seed"])
    train, judged = ([export[f"{part}_{i}"] for i in (0, 1)] for part in ("train", "test"))
    if count := told["held_out"]:
        train, judged = [x[:-count] for x in train], [x[-count:] for x in train]
    teacher, student = read_network(export), read_network(export)
    prune(student, told["importance"])
    kept = (count_macs(student) / count_macs(teacher), size(student) / size(teacher))
    after_cut = compare(teacher, student, *judged)["accuracy"]
    generator = np.random.default_rng(told["seed"])
    fine_tune(student, *train, told["epochs"], told["rate"], generator)
    return {
        **compare(teacher, student, *judged),
        "after_cut": after_cut,
        **dict(zip(("macs_kept", "parameters_kept"), (round(x, 4) for x in kept), strict=True)),
        "widths": [m.conv1.out_channels for m in student.modules() if isinstance(m, Block)],
    }


def size(model):
    return sum(p.numel() for p in model.parameters())


def main():
    started = time.monotonic()
    found = run(np.load(sys.argv[1]), json.loads(sys.argv[2]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["seconds"] = round(time.monotonic() - started, 1)
    found["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime)
    versions = f"torch {torch.__version__}, Torch-Pruning {torch_pruning.__version__}"
    load = f"load {os.getloadavg()[0]:.0f}"
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {load}, {versions}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
