"""The whole study of the README with a network and batches of one's own: no file, no command line.

Run it with ``python examples/whole_study.py``; it takes a minute and needs no download. :class:`Net` and the loaders
stand for yours: the module is only called, the loaders are only read. Every figure is that of the command of the same
name on the same network and images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import decompose_cli as dc

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.261)
DIGITS = [str(digit) for digit in range(10)]


class Net(nn.Module):
    """A network of yours; this one has the body and the weights of the one that ships with decompose."""

    def __init__(self) -> None:
        super().__init__()
        trained = dc.load_model().module
        self.fc = trained.get_submodule("linear")
        trained.set_submodule("linear", nn.Identity())
        self.body = trained

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        logits: Tensor = self.fc(self.body(images))
        return logits


def loader_of(split: str) -> DataLoader[Any]:
    """Batches of yours: normalised images and class numbers."""
    images = dc.load_dataset("digits", split)
    seen = dc.load_model().preprocessing_of(images)
    pixels = torch.cat([batch for batch, _ in images.batches(seen, 512, 0)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return DataLoader(TensorDataset((pixels / 255 - mean) / std, images.labels), batch_size=64)


def study(net: nn.Module, train_loader: DataLoader[Any], test_loader: DataLoader[Any]) -> dict[str, Any]:
    """Every step, on what is in memory; returns the results by name."""
    model = dc.load_model(net, input_size=32, class_names=DIGITS, mean=MEAN, std=STD)
    # Each image passes the network once; what follows works on what entered the head.
    train, test = dc.extract_features(model, train_loader), dc.extract_features(model, test_loader)
    indices = dc.extract_indices(train, k=5)
    return {
        "indices": indices,
        "validate": dc.validate(test, indices, temperature="fit", coverage=0.9),
        "sweep": dc.sweep(test, train, methods=["frequency", "weight"], ks=range(1, 11), max_drop=1, max_class_drop=20),
        "sparsify": dc.sparsify(train, [2, 3], "backward", test=test),
        "essential": dc.essential(test, indices, repeats=10),
        "mutual_info": dc.mutual_info({"frequency": indices}),
        "selectivity": dc.selectivity(model, train_loader, layers=["body.layer3.2"]),
        "filters": dc.filters(model, test_loader, "4", indices=indices, against="9"),
        "explain": dc.explain(model, test_loader, worst=2, indices=indices),
        # The recipe is that of the command; digits are not mirrored and stay where they are.
        "finetune": dc.finetune(
            model, train_loader, test_loader, dc.extract_indices(train, k=2), epochs=2, augment="none", only="head"
        ),
    }


def tell(results: dict[str, Any]) -> None:
    """Print what comes of each step."""
    head = results["validate"]
    low, high = head.difference.ci95
    print(
        f"five features per digit: {head.decomposed.correct} of {head.total} right instead of {head.original.correct},"
    )
    print(f"  {head.difference.points:+.2f} points [{low:+.2f}, {high:+.2f}]")
    worst = head.difference.worst_class
    print(f"  the digit that loses most: {DIGITS[worst.number]}, {worst.before} to {worst.after} of {worst.images}")
    sets = head.adjusted.heads["decomposed"].sets
    print(f"  sets with a coverage of 90%: {sets.coverage:.1f}% covered by {sets.mean_size:.2f} digits on average")
    chosen = results["sweep"].chosen
    print(f"smallest set within a point: {chosen.features} features in all ({chosen.method})")
    for k, one in results["sparsify"].heads.items():
        print(f"chosen and fitted anew, k = {k}: {one.point.correct} of {results['sparsify'].total}")
    kept = results["essential"].summary["ours"]
    print(f"noise on them: {kept.noise_at_inf:.1f} of {kept.images} stay; on all others: {kept.noise_at_noninf:.1f}")
    print(f"mutual information of the digits' sets: {results['mutual_info'].sets['frequency']['5'].mean:.4f}")
    print(f"selectivity of the last block: {results['selectivity'].layers['body.layer3.2'].psi_mean:.4f}")
    beside = results["filters"].beside
    print(f"4 and 9 have {beside.both} features in common; filter {beside.features[0].feature} tells them apart best")
    for one in results["explain"].explanations:
        print(f"image {one.image}: a {one.label_name} taken for a {one.predicted_name}")
    tuned = results["finetune"]
    before, after, total = tuned.before.correct, tuned.after.correct, tuned.after.images
    print(f"two features per digit, trained further: {before} to {after} of {total}")


def main() -> None:
    """Do all steps, and print what comes of each."""
    tell(study(Net().eval(), loader_of("train"), loader_of("test")))


if __name__ == "__main__":
    main()
