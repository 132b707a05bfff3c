"""A network and images of one's own, from Python: train, decompose, measure, train further, save.

Run it with ``python examples/own_network.py``; it takes some seconds and needs no download. The network is an ordinary
``torch.nn.Module``, the images come from ordinary ``DataLoader``s.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import decompose_cli as dc


class Net(nn.Module):
    """Three convolutions, the mean over positions, and a linear head with 32 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, 8, 8) to logits (N, 10)."""
        return self.fc(self.body(images))


def train(module: nn.Module, batches: DataLoader, epochs: int, lr: float) -> None:
    """Train in the plain way; a decomposed network trains as any other."""
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    module.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()
            optimizer.step()
    module.eval()


def main() -> None:
    """Do all steps, and print what comes of each."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 8 - 1
    labels = torch.tensor(digits.target)
    training = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    ordered = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=256)
    test = DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=256)

    net = Net()
    train(net, training, epochs=8, lr=0.01)

    # The head is found by tracing what yields the logits; images only need a size.
    model = dc.load_model(net, input_size=8, class_names=[str(digit) for digit in range(10)])
    print(model, "with head", model.head_name)

    # Each image passes the network once; everything else works on what entered the head.
    seen, unseen = dc.extract_features(model, ordered), dc.extract_features(model, test)
    for k in (2, 4, 8):
        results = dc.validate(unseen, dc.extract_indices(seen, k=k))
        low, high = results.difference.ci95
        kept, full = results.decomposed.correct, results.original.correct
        print(f"k = {k}: {kept} of {results.total} instead of {full}, ", end="")
        print(f"{results.difference.points:+.2f} points [{low:+.2f}, {high:+.2f}]")

    # The decomposed network is a module like any other, so training can bring back what was lost.
    small = dc.decompose(model, dc.extract_indices(seen, k=2))
    train(small.module, training, epochs=4, lr=0.003)
    after = dc.validate(dc.extract_features(small, test)).decomposed
    low, high = after.top1_ci95
    print(f"k = 2, trained further: {after.correct} of {results.total}, {after.top1:.2f}% [{low:.2f}, {high:.2f}]")
    worst = min(after.per_class, key=lambda row: row.correct / row.total)
    print(f"hardest digit: {worst.name}, {worst.correct} of {worst.total}")

    dc.save_model(small, "digits-k2.safetensors", overwrite=True)
    print("written to digits-k2.safetensors")


if __name__ == "__main__":
    main()
