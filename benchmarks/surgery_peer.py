"""Times Torch-Pruning; started by `surgery.py` with a Python that has torch, not Keras.

    python benchmarks/surgery_peer.py '["resnet50"]' 5

Prints one line of JSON: median seconds of the dependency graph plus the removal of half of the
channels (L1, uniform, classifier excepted), for networks of torchvision with random weights.
"""

import json
import statistics
import sys
import time

import torch
import torch_pruning
import torchvision


def seconds_of_a_cut(name):
    """One measurement on a fresh network."""
    pixels = 299 if name == "inception_v3" else 224
    options = {"init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    heads = [m for m in model.modules() if getattr(m, "out_features", None) == 1000]
    x = torch.randn(1, 3, pixels, pixels)
    start = time.perf_counter()
    torch_pruning.pruner.MagnitudePruner(
        model,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=heads,
    ).step()
    return time.perf_counter() - start


def main():
    names, repeats = json.loads(sys.argv[1]), int(sys.argv[2])
    seconds = {
        name: statistics.median(seconds_of_a_cut(name) for _ in range(repeats)) for name in names
    }
    versions = {"torch": torch.__version__, "torch_pruning": torch_pruning.__version__}
    print(json.dumps({"seconds": seconds, **versions}))


if __name__ == "__main__":
    main()
