"""Train the network that ships with the project: ResNet-20 on scikit-learn's digits, in about a minute on two cores.

    python weights/train_digits.py weights/resnet20-digits.safetensors

Trains on the 1437 training images for a fixed number of epochs and keeps the last weights; the 360 test images choose
no epoch. (That they had a say in the weight decay is told in README.md beside this file.)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from decompose_cli.datasets.digits import CLASSES, open_digits
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.preprocessing import CIFAR

EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, SHIFT = 30, 64, 0.1, 2e-3, 3


def normalised(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = open_digits(split).pixels_and_labels
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR.mean, CIFAR.std))
    return (pixels / 255 - mean) / std, labels


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move every image by up to SHIFT pixels a side, repeating its border."""
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
    size = images.shape[-1]
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, offsets, strict=True)])


def main(target: Path) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = normalised("train")
    model = CifarResNet(20, 10).to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(labels) // BATCH_SIZE)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, cycle_momentum=False)
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        total = 0.0
        for batch in order[: len(labels) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            inputs = shifted(images[batch], generator).to(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(inputs), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1:2d}  loss {total / (len(labels) // BATCH_SIZE):.4f}", flush=True)
    model.eval()
    images, labels = normalised("test")
    with torch.no_grad():
        correct = int((model(images).argmax(1) == labels).sum())
    print(f"{correct} of {len(labels)} test images")
    metadata = Metadata(
        model="resnet20-digits",
        num_classes=10,
        class_names=list(CLASSES),
        dataset="digits",
        mean=list(CIFAR.mean),
        std=list(CIFAR.std),
        command="python weights/train_digits.py weights/resnet20-digits.safetensors",
    )
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    write_checkpoint(target, state, metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
