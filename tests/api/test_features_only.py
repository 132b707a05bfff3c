"""Networks without a classifier from Python: features, a head fitted to them, and the checkpoint of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import decompose_cli as dc

NAMES = [str(digit) for digit in range(10)]


class Tower(nn.Module):
    """Features and no logits: 24 means of maps."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 24, 7, stride=5)
        nn.init.normal_(self.conv.weight, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).amax((2, 3))


def test_a_head_is_fitted_to_a_network_without_one(tmp_path: Path) -> None:
    tower = Tower().train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    model = dc.load_model(tower, features_only=True, class_names=NAMES, input_size=32)
    assert repr(model) == "Model('Tower', 24 features, 10 classes, no head)"
    train, test = (dc.extract_features(model, dc.load_dataset("digits", split)) for split in ("train", "test"))
    assert train.head is None
    head = dc.sparsify(train, k=4, method="backward")
    small = head.decompose(model)
    assert small.is_decomposed
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = tower(images).double() @ head.weight.t() + head.bias
        torch.testing.assert_close(small.module.eval()(images).double(), logits, rtol=1e-5, atol=1e-5)
    found = dc.validate(dc.extract_features(small, dc.load_dataset("digits", "test"))).decomposed
    assert found.correct == head.validate(test).decomposed.correct > 200
    assert tower.training
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    dc.save_model(small, tmp_path / "small.safetensors")


def test_what_needs_a_head_says_so(tmp_path: Path) -> None:
    model = dc.load_model(Tower(), features_only=True, class_names=NAMES, input_size=32)
    with pytest.raises(dc.InputError, match="A decomposition needs a head, and Tower has none"):
        dc.decompose(model, {number: [number] for number in range(10)})
    with pytest.raises(dc.InputError, match="A checkpoint needs a head"):
        dc.save_model(model, tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()
    with pytest.raises(dc.InputError, match="give class_names"):
        dc.load_model(Tower(), features_only=True, input_size=32)
    with pytest.raises(dc.InputError, match=r"Sequential returns values of shape \(2, 24, 6, 6\), not features"):
        dc.load_model(
            nn.Sequential(Tower().conv).requires_grad_(False), features_only=True, class_names=NAMES, input_size=32
        )
