"""``layers``: the modules of a network, its head, and the layer that class activation maps are taken from."""

from __future__ import annotations

from dataclasses import dataclass

from decompose_cli.datasets.registry import usual_preprocessing
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import default_model, open_network
from decompose_cli.models.cam_layer import default_cam_layer
from decompose_cli.models.classifier import Classifier, find_entry
from decompose_cli.models.head import find_head
from decompose_cli.models.outputs import trace_outputs, warn_of_passed_over
from decompose_cli.models.tracing import cannot_run, example_images
from decompose_cli.preprocessing import parse_image_options


@dataclass(frozen=True)
class Layer:
    """One module: its output per image, and whether it is the head or the default layer for activation maps."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    is_head: bool
    is_cam_layer: bool


@dataclass(frozen=True)
class Layers:
    """The modules of a network in the order in which they finish; ``refusal`` says why none is the head."""

    model: str
    input_size: tuple[int, int]
    layers: list[Layer]
    refusal: str | None


def list_layers(
    model: str | None = None,
    *,
    weights: str | None = None,
    ema: bool = False,
    weights_key: str | None = None,
    head: str | None = None,
    input_size: str | None = None,
    seed: int = 0,
    allow_download: bool = True,
    features_only: bool = False,
) -> Layers:
    """List the modules that a forward pass uses.

    Args:
        model: Name of the network, as every command takes it; None for the network that the weights name, or without
            any for the network that ships with the project.
        weights: A path, a URL, ``default`` or ``random``, whose classes, options and decomposed head the network gets;
            None for the network as it is built, without any weights.
        ema: Whether the averaged weights are taken where the file has raw and averaged ones.
        weights_key: The place of the weights in the file, with dots, where it has several.
        head: Submodule to mark as the head instead of the traced one.
        input_size: Size of the images, as ``224`` or ``224x192``.
        seed: Seed of the initial weights.
        allow_download: Whether weights may be downloaded.
        features_only: Whether the network is taken without a classifier; a linear head stands at its end then.

    Raises:
        InputError: The model is unknown, its weights cannot be used, or it cannot run on such images.
        DownloadError: The weights cannot be fetched.
    """
    inputs = Inputs(
        model,
        weights,
        head=head,
        seed=seed,
        allow_download=allow_download,
        ema=ema,
        weights_key=weights_key,
        features_only=features_only,
    )
    if weights is not None:
        classifier = open_network(inputs)
    else:
        name = model or default_model()
        entry = find_entry(name, allow_download=allow_download, features_only=features_only)
        classifier = Classifier(entry, None, head, seed)
    model = classifier.name
    fallback = usual_preprocessing(classifier.entry.dataset)
    size = fallback.overridden(classifier.image_options, parse_image_options(input_size=input_size)).crop
    module, head_in_weights = classifier.build(size)
    head = head_in_weights or head
    refusal: InputError | None = None
    head_name = None
    try:
        head_name = find_head(module, size, name=head, model_name=model).name
    except InputError as error:
        if head is not None:
            raise
        refusal = error
    try:
        images = example_images(size, model=module)
        outputs = trace_outputs(module, images)
    except (Exception, SystemExit) as error:
        raise refusal or cannot_run(model, size, error) from error
    cam = default_cam_layer(module, images, outputs)
    warn_of_passed_over(outputs, cam, model)
    layers = [
        Layer(
            name=use.layer,
            kind=type(use.module).__name__,
            output_shape=tuple(use.values.shape[1:]) if use.values and use.values.shape else None,
            parameters=sum(parameter.numel() for parameter in use.module.parameters()),
            is_head=use.layer == head_name,
            is_cam_layer=use.layer == cam,
        )
        for use in outputs
        if use.number == use.times
    ]
    return Layers(model, size, layers, refusal.message if refusal else None)
