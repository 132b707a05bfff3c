"""Maps of tokens: a grid in a line behind tokens of the class, of distillation or registers, against loops over it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.selectivity import measure_selectivity
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.models.cam_layer import CamLayer, cam_layer, default_cam_layer
from decompose_cli.models.head import find_head
from decompose_cli.models.maps import class_maps, feature_maps, grad_cam
from decompose_cli.models.outputs import last_map_layer, trace_outputs
from decompose_cli.models.passing_maps import find_place, with_maps
from decompose_cli.models.planes import Line
from decompose_cli.models.tracing import penultimate

SIZE, WIDTH, CLASSES = (24, 32), 12, 5
ROWS, COLUMNS = 3, 4
pytestmark = pytest.mark.usefixtures("pooled_weights")


class Block(nn.Module):
    """A block of a vision transformer, with one head of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(((q @ k.mT) / WIDTH**0.5).softmax(-1) @ v)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A small vision transformer.

    Args:
        before: Number of tokens before the grid.
        after: Number of tokens behind it.
        reads: Which tokens make the features: "class", "grid", "all", "two" (class token and mean of the grid).
        by_columns: Whether the grid lies column after column.
    """

    def __init__(self, before: int, after: int, reads: str, *, by_columns: bool = False) -> None:
        super().__init__()
        self.before, self.after, self.reads, self.by_columns = before, after, reads, by_columns
        self.embed = nn.Conv2d(3, WIDTH, 8, 8)
        count = before + after + ROWS * COLUMNS
        self.first, self.last = (nn.Parameter(torch.randn(1, number, WIDTH)) for number in (before, after))
        self.places = nn.Parameter(torch.randn(1, count, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH * (1 + (reads == "two")), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        grid = (maps.mT if self.by_columns else maps).flatten(2).transpose(1, 2)
        parts = [self.first.expand(len(x), -1, -1), grid, self.last.expand(len(x), -1, -1)]
        tokens = torch.cat([part for part in parts if part.shape[1]], 1) if self.before + self.after else grid
        tokens = self.norm(self.blocks(tokens + self.places))
        end = tokens.shape[1] - self.after
        means = {
            "class": lambda: tokens[:, 0],
            "grid": lambda: tokens[:, self.before : end].mean(1),
            "all": lambda: tokens.mean(1),
            "two": lambda: torch.cat([tokens[:, 0], tokens[:, self.before : end].mean(1)], 1),
        }
        return self.head(means[self.reads]())  # type: ignore[no-any-return]


def network(before: int, after: int, reads: str, *, by_columns: bool = False) -> tuple[Transformer, Tensor]:
    torch.manual_seed(before + 3 * after)
    return Transformer(before, after, reads, by_columns=by_columns).eval(), torch.randn(3, 3, *SIZE)


def found(module: nn.Module, images: Tensor, name: str | None = None) -> CamLayer:
    outputs = trace_outputs(module, images)
    chosen = name or default_cam_layer(module, images, outputs)
    assert chosen is not None
    return cam_layer(module, images, outputs, chosen, "the network")


def place_of(row: int, column: int, *, before: int, by_columns: bool = False) -> int:
    return before + (column * ROWS + row if by_columns else row * COLUMNS + column)


def written_out(module: nn.Module, cam: CamLayer, images: Tensor, classes: Tensor, place: Callable[..., int]) -> Tensor:
    """Grad-CAM in float64: one image after the other, and one position after the other."""
    module = copy.deepcopy(module).double()
    layer = module.get_submodule(cam.name)
    shown = torch.zeros(len(images), ROWS, COLUMNS, dtype=torch.float64)
    for n, image in enumerate(images.double()):
        kept: list[Tensor] = []
        if cam.is_given:
            handle = layer.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
        else:
            handle = layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        logit = module(image[None])[0, int(classes[n])]
        handle.remove()
        (gradient,) = torch.autograd.grad(logit, kept[-1])
        everywhere = [place(row, column) for row in range(ROWS) for column in range(COLUMNS)]
        alphas = [sum(float(gradient[0, p, d]) for p in everywhere) / len(everywhere) for d in range(WIDTH)]
        for row in range(ROWS):
            for column in range(COLUMNS):
                token = kept[-1][0, place(row, column)].detach()
                shown[n, row, column] = max(0.0, sum(a * float(token[d]) for d, a in enumerate(alphas)))
    return shown.float()


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "reads"), [(1, 0, "class"), (5, 2, "class"), (0, 0, "grid"), (2, 1, "all")]
)
def test_grad_cam_of_tokens_is_that_of_their_grid(before: int, after: int, reads: str, by_columns: bool) -> None:
    module, images = network(before, after, reads, by_columns=by_columns)
    cam = found(module, images)
    assert cam.name == "blocks.1"
    assert cam.planes.line == Line(1, before, ROWS, COLUMNS, by_columns)
    assert cam.is_given == (reads == "class")
    classes = torch.tensor([4, 0, 2])
    shown = grad_cam(module, module.get_submodule(cam.name), images, classes, cam.planes, is_given=cam.is_given)

    def place(row: int, column: int) -> int:
        return place_of(row, column, before=before, by_columns=by_columns)

    expected = written_out(module, cam, images, classes, place)
    torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-7)
    assert (shown.flatten(1).amax(1) > 0).any()
    layer = module.get_submodule(cam.name)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    assert all(parameter.grad is None for parameter in module.parameters())


def test_layers_whose_positions_no_logit_depends_on_are_refused() -> None:
    module, images = network(1, 0, "class")
    with pytest.raises(InputError, match="The logits of the network do not depend on the positions of 'norm'"):
        found(module, images, "norm")
    assert found(module, images, "blocks.0") == CamLayer("blocks.0", found(module, images).planes)
    nn.init.zeros_(module.head.weight)  # no logit depends on anything
    assert not found(module, images).is_given


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (3, 2)])
def test_features_that_are_means_of_the_grid_are_those_of_its_maps(before: int, after: int) -> None:
    module, images = network(before, after, "grid")
    features, maps = feature_maps(module, module.head, images)
    assert maps is not None
    assert maps.shape == (3, WIDTH, ROWS, COLUMNS)
    kept: list[Tensor] = []
    handle = module.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.no_grad():
        logits = module(images)
    handle.remove()
    for row in range(ROWS):
        for column in range(COLUMNS):
            assert torch.equal(maps[:, :, row, column], kept[0][:, place_of(row, column, before=before)])
    torch.testing.assert_close(features, maps.mean((2, 3)))
    weights = module.head.weight.detach()[torch.tensor([1, 1, 3])]
    shares = class_maps(maps, weights).sum((1, 2))
    torch.testing.assert_close(shares, (logits - module.head.bias.detach())[range(3), [1, 1, 3]], rtol=1e-4, atol=1e-5)
    place = find_place(module, module.head, images)
    assert place is not None
    output, passing = with_maps(module, images, place)
    torch.testing.assert_close(passing.detach(), maps)
    torch.testing.assert_close(output.detach(), logits)
    (gradient,) = torch.autograd.grad(passing.square().sum(), [module.embed.weight])
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("reads", ["class", "all", "two"])
def test_other_tokens_make_features_that_are_no_means_of_maps(reads: str) -> None:
    module, images = network(1, 0, reads)
    features, maps = feature_maps(module, module.head, images)
    assert maps is None
    assert find_place(module, module.head, images) is None
    head = find_head(module, SIZE)
    assert (head.name, head.num_features) == ("head", WIDTH * (1 + (reads == "two")))
    with torch.no_grad():
        torch.testing.assert_close(features, penultimate(module, head.module, images))
        torch.testing.assert_close(features @ head.weight.t() + head.bias, module(images), rtol=1e-4, atol=1e-5)


def test_selectivity_of_tokens_counts_positions_alone() -> None:
    module, images = network(2, 1, "all")
    outputs = trace_outputs(module, images)
    name, labels, fraction = "blocks.1.mlp.1", torch.tensor([0, 1, 1]), 0.8
    assert [use.values.positions for use in outputs if use.name == name and use.values] == [ROWS * COLUMNS]
    measured = measure_selectivity(module, [(images, labels)], [name], outputs, 2, fraction)[name]
    kept: list[Tensor] = []
    handle = module.get_submodule(name).register_forward_hook(lambda _, __, output: kept.append(output.double()))
    with torch.no_grad():
        module(images)
    handle.remove()
    needed: list[list[int]] = [[], []]
    means = torch.stack([tokens[2:14].mean(0) for tokens in kept[0]])
    of_classes = means[0], means[1:].mean(0)
    largest, rest = torch.maximum(*of_classes), torch.minimum(*of_classes)
    for tokens, label in zip(kept[0], labels.tolist(), strict=True):
        shares = sorted((float(tokens[2:14, d].mean()) for d in range(2 * WIDTH)), reverse=True)
        total, sums = sum(shares), [sum(shares[: n + 1]) for n in range(2 * WIDTH)]
        needed[label].append(sum(part / total < fraction for part in sums))
    assert measured.num_filters == 2 * WIDTH
    index = float(((largest - rest) / (largest + rest + 1e-7)).mean())
    assert measured.class_selectivity == pytest.approx(index, rel=1e-5)
    assert measured.mean_filters.tolist() == [sum(numbers) / len(numbers) for numbers in needed]


class Shuffled(Transformer):
    """Puts its tokens into another order before its blocks."""

    def forward(self, x: Tensor) -> Tensor:
        grid = self.embed(x).flatten(2).transpose(1, 2)[:, torch.arange(ROWS * COLUMNS - 1, -1, -1)]
        return self.head(self.norm(self.blocks(grid)).mean(1))  # type: ignore[no-any-return]


def test_tokens_in_another_order_are_no_grid() -> None:
    torch.manual_seed(0)
    module = Shuffled(0, 0, "grid").eval()
    images = torch.randn(3, 3, *SIZE)
    assert last_map_layer(trace_outputs(module, images)) == "embed"
    assert feature_maps(module, module.head, images)[1] is None


# ------------------------------------------------------------------------------------- the networks of other libraries


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    module = VisionTransformer(32, 8, 2, 2, WIDTH, 24, num_classes=CLASSES)
    nn.init.normal_(module.heads.head.weight)
    return module


def timm_vit(**options: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, **options}
    module: nn.Module = timm.models.vision_transformer.VisionTransformer(num_classes=CLASSES, **arguments)
    nn.init.normal_(module.get_submodule("head").weight)
    return module


def transformers_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, **sizes)
    return transformers.ViTForImageClassification(config)  # type: ignore[no-any-return]


def transformers_swin() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"embed_dim": WIDTH, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2}
    config = transformers.SwinConfig(image_size=32, patch_size=4, num_labels=CLASSES, **sizes)
    return transformers.SwinForImageClassification(config)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "layer", "line", "is_given", "has_maps"),
    [
        (torchvision_vit, "encoder.layers.encoder_layer_1", Line(1, 1, 4, 4), True, False),
        (timm_vit, "blocks.1", Line(1, 1, 4, 4), True, False),
        (lambda: timm_vit(reg_tokens=4), "blocks.1", Line(1, 5, 4, 4), True, False),
        (lambda: timm_vit(global_pool="avg", fc_norm=False), "blocks.1", Line(1, 1, 4, 4), False, True),
        (lambda: timm_vit(global_pool="avg", class_token=False), "blocks.1", Line(1, 0, 4, 4), False, False),
        (transformers_vit, "vit.layers.1", Line(1, 1, 4, 4), True, False),
        (transformers_swin, "swin.layernorm", Line(1, 0, 4, 4), False, True),
    ],
)
def test_the_default_layer_of_vision_transformers_is_their_last_block(
    make: Callable[[], nn.Module], layer: str, line: Line, is_given: bool, has_maps: bool
) -> None:
    torch.manual_seed(0)
    module, images = make().eval(), torch.randn(2, 3, 32, 32)
    cam = found(module, images)
    assert (cam.name, cam.planes.line, cam.is_given) == (layer, line, is_given)
    part = module.get_submodule(cam.name)
    shown = grad_cam(module, part, images, torch.tensor([1, 2]), cam.planes, is_given=cam.is_given)
    assert shown.shape == (2, 4, 4)
    assert float(shown.max()) > 0
    head = find_head(module, (32, 32))
    features, maps = feature_maps(module, head.module, images)
    assert (maps is not None) == has_maps
    if maps is not None:
        torch.testing.assert_close(maps.mean((2, 3)), features, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- main branch


class Branches(nn.Module):
    """Two branches, which leave maps of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 4, 4), nn.Sequential(nn.Conv2d(8, 6, 2), nn.Conv2d(6, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x)], 1)


class Unheard(nn.Module):
    """Layers with maps, of which the logits hear up to the fourth, or, where they are of copied numbers, none."""

    def __init__(self, *, is_copied: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if place == 0 else 4, 4, 3, padding=1) for place in range(12))
        self.head, self.is_copied, self.passes = nn.Linear(4, CLASSES), is_copied, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place == 3:
                features = x.mean((2, 3))
        return self.head(torch.tensor(features.tolist()) if self.is_copied else features)


@pytest.mark.parametrize(("is_copied", "layer"), [(False, "layers.3"), (True, "layers.11")])
def test_the_layer_that_is_heard_is_found_in_a_few_passes_whatever_the_depth(is_copied: bool, layer: str) -> None:
    module = Unheard(is_copied=is_copied).eval()
    images = torch.randn(2, 3, 6, 6)
    outputs = trace_outputs(module, images)
    before = module.passes
    assert default_cam_layer(module, images, outputs) == layer
    assert module.passes - before <= 6


def test_a_branch_alone_is_not_the_default_layer() -> None:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    module = nn.Sequential(stem, Branches(), nn.Flatten(), nn.Linear(8, CLASSES)).eval()
    images = torch.randn(2, 3, 6, 6)
    outputs = trace_outputs(module, images)
    assert last_map_layer(outputs) == "1.two.0"
    assert default_cam_layer(module, images, outputs) == "0"
    module[1] = nn.Sequential(nn.Conv2d(8, 6, 2), nn.Conv2d(6, 8, 3))  # all of what the logits see comes by here
    outputs = trace_outputs(module, images)
    assert default_cam_layer(module, images, outputs) == last_map_layer(outputs) == "1.0"


@pytest.mark.parametrize(("side", "layer"), [(96, "Mixed_6e"), pytest.param(139, "Mixed_7c", marks=pytest.mark.slow)])
def test_the_default_layer_of_inception_is_of_its_main_branch(side: int, layer: str) -> None:
    from torchvision.models import inception_v3

    module = inception_v3(weights=None, num_classes=CLASSES, init_weights=False, transform_input=False).eval()
    images = torch.randn(2, 3, side, side)
    assert default_cam_layer(module, images, trace_outputs(module, images)) == layer
