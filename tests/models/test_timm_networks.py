"""Networks of timm by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import REFUSED, document_of, refused, run
from helpers.hub import local_hub
from helpers.plain_loop import check_commands, opened, picture_folder, settle_averages
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.datasets.transforms import image_to_tensor
from decompose_cli.errors import DownloadError, InputError
from decompose_cli.models import timm_networks
from decompose_cli.models.classifier import find_entry, open_classifier
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.storage.files import sha256_of

timm = pytest.importorskip("timm")

SMALL = "timm:test_resnet.r160_in1k"


def test_preprocessing_is_that_of_timms_own_transform() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 211, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((422, 600))
    for name in ("resnet50.a1_in1k", "coat_lite_medium_384.in1k", "swin_tiny_patch4_window7_224.ms_in1k", "resnet18"):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        expected = timm.data.create_transform(**config)(image)
        own = find_entry(f"timm:{name}").preprocessing
        assert own is not None
        mean, std = (torch.tensor(values)[:, None, None] for values in (own.mean, own.std))
        made = (image_to_tensor(image, own) / 255 - mean) / std
        assert torch.allclose(made, expected, atol=1e-6), name


def loop_of(module: nn.Module, head: nn.Module, name: str) -> Any:
    """A loop over images that are as large as the network takes them."""
    config = timm.models.get_pretrained_cfg(name)

    def one(image: Image.Image) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        with torch.no_grad():
            logits = module(((pixels - mean) / std)[None])
        handle.remove()
        return seen[0], logits

    return one


def compared(tmp_path: Path, name: str, side: int, **sized: Any) -> None:
    """Check the commands on a network with random weights, in a file, with four classes."""
    folder = picture_folder(tmp_path / "pictures", side)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=4, **sized)
    images, _ = opened(folder, "train")
    settle_averages(module, torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) / 127.5 - 1 for i in images]))
    torch.save(module.state_dict(), "weights.pth")
    size = ["--input-size", str(side)]
    check_commands([f"timm:{name}", "-w", "weights.pth"], size, folder, loop_of(module, module.get_classifier(), name))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_commands_of_small_networks_against_a_plain_loop(tmp_path: Path, name: str) -> None:
    compared(tmp_path, name, 48, **({"img_size": 48} if name == "test_vit" else {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "sized"),
    [
        ("resnet50.a1_in1k", 64, {}),
        ("convnext_atto", 64, {}),
        ("efficientnet_b0", 64, {}),
        ("vit_tiny_patch16_224", 48, {"img_size": 48}),
        ("swin_tiny_patch4_window7_224", 56, {"img_size": 56}),
        ("regnety_002", 64, {}),
        ("mobilenetv3_small_050", 64, {}),
        ("maxvit_pico_rw_256", 64, {"img_size": 64}),
    ],
)
def test_commands_against_a_plain_loop(tmp_path: Path, name: str, side: int, sized: dict[str, Any]) -> None:
    compared(tmp_path, name, side, **sized)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("test_vit", "pos_embed"),
        pytest.param("swin_tiny_patch4_window7_224", "relative_position_bias_table", marks=pytest.mark.slow),
        pytest.param("maxvit_pico_rw_256", "relative_position_bias_table", marks=pytest.mark.slow),
    ],
)
def test_weights_of_another_size_are_interpolated_as_timm_does(
    name: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    large = timm.create_model(name, num_classes=4)
    torch.save(large.state_dict(), "large.pth")
    found = open_classifier(f"timm:{name}", "large.pth").load((64, 64)).module
    small = timm.create_model(name, num_classes=4, img_size=64)
    fit = sys.modules[type(small).__module__].checkpoint_filter_fn  # type: ignore[attr-defined]
    expected = fit(large.state_dict(), small)
    state = found.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    changed = [key for key, value in large.state_dict().items() if value.shape != state[key].shape]
    assert changed
    assert all(key.endswith(table) for key in changed)
    assert f"of another size of images: {changed[0]}" in caplog.text


def test_random_weights_are_those_of_the_seed_at_any_size() -> None:
    found = [open_classifier("timm:test_vit", "random", seed=seed).load((48, 48)).module for seed in (3, 3, 4)]
    states = [module.state_dict() for module in found]
    assert states[0]["pos_embed"].shape[1] == 1 + 9
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_default_weights_come_from_the_hub_once_and_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    torch.manual_seed(5)
    module = timm.create_model(SMALL.removeprefix("timm:")).eval()
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "model.safetensors"
    save_file(module.state_dict(), file)
    with local_hub(tmp_path / "hub", monkeypatch) as hub:
        repository = "timm/test_resnet.r160_in1k"
        with pytest.raises(DownloadError, match=r"is not on this machine and downloads are off"):
            dc.load_model(SMALL, allow_download=False)
        assert hub.requests == []
        hub.put(repository, tmp_path / "files")
        model = dc.load_model(SMALL)
        assert f"Fetching model.safetensors (1.9 MB) from {hub.address}/{repository}" in caplog.text
        asked = len(hub.requests)
        classifier = open_classifier(SMALL, None, allow_download=False)
        assert len(hub.requests) == asked
        assert classifier.uses_default_weights
        assert classifier.weights_source == f"{hub.address}/{repository}"
        assert classifier.weights_sha256 == sha256_of(file)
        images = torch.randn(2, 3, 160, 160)
        with torch.no_grad():
            assert torch.equal(model.module(images), module(images))
        assert model.class_names is not None
        assert model.class_names[0] == "tench"
        assert model.preprocessing == Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 168, (160, 160), "bilinear")
        file.write_bytes(file.read_bytes()[:1000])
        hub.put("timm/test_vit.r160_in1k", tmp_path / "files")
        with pytest.raises(InputError, match=r"^timm cannot read the weights of timm:test_vit\.r160_in1k in .*model"):
            dc.load_model("timm:test_vit.r160_in1k")


def test_weights_at_an_address_are_fetched_and_checked_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = timm.create_model("test_resnet", num_classes=1000)
    fetched = tmp_path / "file.pth"
    torch.save(module.state_dict(), fetched)
    config = {**timm.models.get_pretrained_cfg("test_resnet").to_dict(), "hf_hub_id": None, "url": "http://here/a.pth"}
    monkeypatch.setattr(
        timm_networks, "_pretrained_config", lambda _: {**timm.data.resolve_data_config(config), **config}
    )
    asked = []

    def fetch(url: str, *, allow_download: bool) -> Path:
        asked.append((url, allow_download))
        return fetched

    monkeypatch.setattr(timm_networks, "fetched_file", fetch)
    classifier = open_classifier("timm:test_resnet", "default")
    assert asked == [("http://here/a.pth", True)]
    assert classifier.checkpoint is not None
    assert torch.equal(classifier.checkpoint.state_dict["fc.weight"], module.state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("timm:resnet5", "has no model 'resnet5' (did you mean timm:resnet50 or"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "names a repository of the hub"),
        ("timm:", "has no model ''"),
        ("timm:resnet18.none_such", "has no weights 'none_such' of resnet18"),
        ("timm:resnet18.", "has no weights '' of resnet18"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "are of a network without a classifier"),
        ("timm:coatnet_0_224", "has no default weights"),
    ],
)
def test_what_timm_does_not_have_is_said(name: str, fragment: str) -> None:
    refused(["validate", name, "-w", "default", "--dataset", "digits", "--no-download"], REFUSED, fragment)


def test_sizes_that_a_network_cannot_have_are_said() -> None:
    arguments = ["validate", "timm:nest_tiny", "-w", "random", "--dataset", "digits", "--input-size", "40"]
    refused(arguments, REFUSED, "timm cannot build timm:nest_tiny for images of 40x40 pixels: ")


def test_a_run_of_a_timm_network_opens_by_itself(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 32)
    run("train", "timm:test_vit", "--dataset", f"folder:{folder}", "--input-size", "32", "--epochs", "1", "-o", "run")
    result = document_of("validate", "-w", "run/last.pt", "-j", "0")
    assert result["model"]["name"] == "timm:test_vit"
    assert result["dataset"]["crop"] == [32, 32]
    assert dc.load_model(weights="run/last.pt").module.state_dict()["pos_embed"].shape[1] == 1 + 4


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = refused(["layers", "timm:resnet18"], REFUSED, "timm:resnet18 needs the package timm")
    assert 'pip install "decompose-cli[timm]"' in said


def test_a_timm_that_runs_code_in_weights_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_networks, "_weights_file", lambda *_: tmp_path / "hostile.pth")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("the weights were read"))
    for version in ("1.0.9", "1.0.30", "0.9.16"):
        monkeypatch.setattr(timm, "__version__", version)
        with pytest.raises(InputError, match=rf"^timm {version} would run code that is in the weights of timm:"):
            open_classifier(SMALL, "default")


def test_a_border_that_is_not_put_around_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    timm_networks.timm_preprocessing("timm:one", {"input_size": (3, 32, 32), "crop_mode": "center"})
    assert "border" not in caplog.text
    timm_networks.timm_preprocessing("timm:one", {"input_size": (3, 32, 32), "crop_mode": "border"})
    assert "timm puts a border around images for timm:one" in caplog.text
