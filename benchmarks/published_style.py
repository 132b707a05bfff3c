"""The other side of the comparison: the same jobs the way the published code does them.

The published code is akshaybadola/decomposing-the-deep (commit 2600780) and, for the indices, class_specific_cnn
(388d87a). Both load the training and the test images, whatever the job (``dataset.get_data``); an image is turned into
a Pillow image (as torchvision's CIFAR10 does; its check of md5 sums, which no made-up images pass, is left out), a
tensor, normalised by torchvision's transforms, collated into batches of 128 by a DataLoader with as many workers as
there are cores, up to 12, and put through the eager network. Indices are found by keeping the maps of ``layer3.2`` of
all training images, pooling them, and sorting them class by class (``collect_outputs_at_submodules``,
``get_indices_final_layer``), once per k. This script is faster than the published evaluation in one thing: the full and
the decomposed head share a pass, where the published code makes one for each.

    python benchmarks/published_style.py validate --data DIR --weights FILE --indices FILE [--workers N]
    python benchmarks/published_style.py extract --data DIR --weights FILE -k 5,10,20 [--workers N]
    python benchmarks/published_style.py sweep --data DIR --weights FILE -k 5,10,20 [--workers N]
    python benchmarks/published_style.py essential --data DIR --weights FILE --weights FILE --indices FILE ...
    python benchmarks/published_style.py train --data DIR --weights FILE --batch-size N --steps N [--workers N]

All print their answer as JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset

import decompose_cli  # noqa: F401 - lets torchvision be imported beside a CPU-only torch, and does nothing else

from torchvision import transforms  # isort: skip

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.261)
BATCH_SIZE = 128
FIRST_STEPS = 20  # training steps before the clock starts, in which workers start and memory is allocated


class Cifar10(Dataset):
    """One split, all of it in memory as (N, 32, 32, 3)."""

    def __init__(self, root: Path, train: bool) -> None:
        names = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
        parts, self.targets = [], []
        for name in names:
            with (root / "cifar-10-batches-py" / name).open("rb") as handle:
                entry = pickle.load(handle, encoding="latin1")
            parts.append(entry["data"])
            self.targets.extend(entry["labels"])
        self.data = np.vstack(parts).reshape(-1, 3, 32, 32).transpose((0, 2, 3, 1))
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class ImageFolder(Dataset):
    """Image files in one folder per class, opened one by one."""

    def __init__(self, root: Path) -> None:
        names = sorted(path.name for path in root.iterdir())
        self.files = [(file, names.index(name)) for name in names for file in sorted((root / name).iterdir())]
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        with Image.open(file) as image:
            return self.transform(image.convert("RGB")), label


def load_data(data: Path) -> tuple[Dataset, Dataset]:
    """Training and test images; both are loaded whichever the job needs."""
    if (data / "folder").is_dir():  # only listed, which costs nothing
        return ImageFolder(data / "folder" / "test"), ImageFolder(data / "folder" / "test")
    return Cifar10(data, train=True), Cifar10(data, train=False)


def load_network(weights: Path) -> nn.Module:
    """ResNet-20 with its weights, ready to evaluate."""
    from decompose_cli.models.cifar_resnet import CifarResNet

    model = CifarResNet(20)
    state = torch.load(weights, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=False)
    return model.eval()


class DecomposedHead(nn.Module):
    """One small linear layer per class, on the features that an index_select picks for it."""

    def __init__(self, head: nn.Linear, indices: dict[str, list[int]]) -> None:
        super().__init__()
        self.indices = [torch.tensor(indices[str(number)]) for number in range(len(indices))]
        self.weights = [head.weight[number, chosen].detach() for number, chosen in enumerate(self.indices)]
        self.bias = head.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        logits = [
            torch.index_select(x, 1, chosen) @ weight for chosen, weight in zip(self.indices, self.weights, strict=True)
        ]
        return torch.stack(logits, 1) + self.bias


def validate(data: Path, weights: Path, indices: Path, workers: int) -> dict[str, int]:
    """Correct answers of the full and of the decomposed head, both from one pass over the test images."""
    model = load_network(weights)
    decomposed = DecomposedHead(model.linear, json.loads(indices.read_text()))
    inputs: list[Tensor] = []
    model.linear.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    _, images = load_data(data)
    loader = DataLoader(images, batch_size=BATCH_SIZE, shuffle=False, num_workers=workers)
    correct = {"original": 0, "decomposed": 0}
    with torch.no_grad():
        for images, labels in loader:
            logits = model(images)
            correct["original"] += int((logits.argmax(1) == labels).sum())
            correct["decomposed"] += int((decomposed(inputs.pop()).argmax(1) == labels).sum())
    return correct


def extract(data: Path, weights: Path, ks: list[int], workers: int) -> dict[str, dict[str, list[int]]]:
    """Pass over the training images for each k, counting per class which features are among an image's k largest."""
    model = load_network(weights)
    train, _ = load_data(data)
    loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=False, num_workers=workers)
    by_k = {}
    for k in ks:
        maps: list[Tensor] = []
        hook = model.get_submodule("layer3.2").register_forward_hook(
            lambda _, __, output, maps=maps: maps.append(output)
        )
        labels: list[np.ndarray] = []
        with torch.no_grad():
            for images, truth in loader:
                labels.append(truth.numpy())
                model(images)
        hook.remove()
        for number, entry in enumerate(maps):
            maps[number] = functional.avg_pool2d(entry, entry.shape[3]).flatten(1)
        features, classes = torch.cat(maps).numpy(), np.concatenate(labels)
        by_k[str(k)] = {
            str(label): _most_frequent(features[classes == label], k) for label in range(model.linear.out_features)
        }
    return by_k


def _most_frequent(features: np.ndarray, k: int) -> list[int]:
    largest = np.flip(features.argsort(1), 1)[:, :k]
    counts = np.bincount(largest.flatten(), minlength=features.shape[1])
    return counts.argsort(kind="stable")[::-1][:k].tolist()


def sweep(data: Path, weights: Path, ks: list[int], workers: int) -> dict[str, int]:
    """Pass over the test images with the decomposed head for each k; the indices are the largest weights."""
    model = load_network(weights)
    full = model.linear
    _, images = load_data(data)
    correct = {}
    for k in ks:
        chosen = full.weight.argsort(dim=1, descending=True, stable=True)[:, :k].tolist()
        model.linear = DecomposedHead(full, {str(number): row for number, row in enumerate(chosen)})
        loader = DataLoader(images, batch_size=BATCH_SIZE, shuffle=False, num_workers=workers)
        with torch.no_grad():
            correct[str(k)] = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return correct


def essential(data: Path, weights: list[Path], indices: list[Path], workers: int) -> list[dict[str, list[int]]]:
    """Noise on the features of each class and on all others, once: a pass over the images of each class, by eights.

    ``validate_essential_nature`` (commit 388d87a) does so with a DataLoader per class, in batches of 8.
    """
    _, images = load_data(data)
    answers = []
    for file, index_file in zip(weights, indices, strict=True):
        model = load_network(file)
        head = model.linear
        model.linear = nn.Identity()
        chosen = json.loads(index_file.read_text())
        result = {}
        for label in range(head.out_features):
            members = [number for number, target in enumerate(images.targets) if target == label]
            loader = DataLoader(Subset(images, members), batch_size=8, shuffle=False, num_workers=workers)
            own = torch.tensor(chosen[str(label)])
            rest = torch.tensor(sorted(set(range(head.in_features)) - set(own.tolist())))
            counts = [0, 0]
            with torch.no_grad():
                for batch, _ in loader:
                    features = model(batch)
                    for number, replaced in enumerate((own, rest)):
                        noisy = features.clone()
                        noisy[:, replaced] = torch.randn(len(features), len(replaced))
                        counts[number] += int((head(noisy).argmax(1) == label).sum())
            result[str(label)] = counts
        answers.append(result)
    return answers


def train(data: Path, weights: Path, batch_size: int, steps: int, workers: int) -> float:
    """Images per second of the published fine-tuning loop (``finetune.py``), without its first steps.

    Mirrored and cropped with Pillow, shuffled, Adam; correct answers and the loss are counted after every step.
    """
    model = load_network(weights)
    images, _ = load_data(data)
    images.transform = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, 4), *images.transform.transforms]
    )
    loader = DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    criterion = nn.CrossEntropyLoss()
    model.train()
    correct = total = 0
    loss_sum, start, done = 0.0, 0.0, 0
    for number, (batch, labels) in enumerate(loader):
        if number == FIRST_STEPS:
            start, done = time.perf_counter(), total
        outputs = model(batch)
        loss = criterion(outputs, labels)
        correct += torch.sum(outputs.detach().argmax(1) == labels)
        total += len(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        if number + 1 == steps:
            break
    return (total - done) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("validate", "extract", "sweep", "essential", "train"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, action="append")
    parser.add_argument("--indices", type=Path, action="append", default=[])
    parser.add_argument("-k", default="5")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    ks = [int(part) for part in given.k.split(",") if part]
    first = given.weights[0]
    jobs = {
        "validate": lambda: validate(given.data, first, given.indices[0], given.workers),
        "extract": lambda: extract(given.data, first, ks, given.workers),
        "sweep": lambda: sweep(given.data, first, ks, given.workers),
        "essential": lambda: essential(given.data, given.weights, given.indices, given.workers),
        "train": lambda: train(given.data, first, given.batch_size, given.steps, given.workers),
    }
    print(json.dumps(jobs[given.job]()))


if __name__ == "__main__":
    main()
