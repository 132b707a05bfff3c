"""What a network makes of the images of a data set: the pixels that it sees, and which output is which class.

Commands and Python programs ask here, so that both measure the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassMap, ClassNames, match_classes
from decompose_cli.datasets.registry import known_class_names
from decompose_cli.errors import first_few, param
from decompose_cli.messages import note, warn, warn_of_first
from decompose_cli.models.classifier import Classifier
from decompose_cli.preprocessing import ImageOptions, Preprocessing


def settled(
    network: str, options: Sequence[ImageOptions], usual: Preprocessing, decided_by: object = None
) -> Preprocessing:
    """Preprocessing of an image before a network sees it; what nobody knows is guessed, and said.

    Args:
        network: Name of the network.
        options: What is known of its images and what was chosen for them, the later before the earlier: the network's
            own (``Classifier.image_options``), then the user's.
        usual: What the data set suggests where the options are silent.
        decided_by: The image whose size decided ``usual``, where one did.
    """
    result = sized(options, usual, decided_by)
    if not all(any(getattr(each, name) is not None for each in options) for name in ("mean", "std")):
        warn(
            f"It is not known how {network} was trained: pixels are normalised with mean {listed(result.mean)} "
            f"and std {listed(result.std)}; give {param('mean')} and {param('std')} (0,0,0 and 1,1,1 for none)."
        )
    return result


def sized(options: Sequence[ImageOptions], usual: Preprocessing, decided_by: object) -> Preprocessing:
    """As :func:`settled`, for a network that is trained from scratch, so that its constants are no guess."""
    result = usual.overridden(*options)
    resize, crop = (
        size if isinstance(size, int) else "x".join(map(str, size)) for size in (result.resize, result.crop)
    )
    sides = (result.resize, result.resize) if isinstance(result.resize, int) else result.resize
    if any(seen > side for seen, side in zip(result.crop, sides, strict=True)):
        message = (
            f"Images of {resize} pixels are cropped to {crop}: where these are more, black ones are put around them."
        )
        warn_of_first(message, message)
    if decided_by is not None and all(each.input_size is None and each.crop is None for each in options):
        note(
            f"Images are resized to {resize} and cropped to {crop} pixels, as the size of {decided_by} suggests; "
            f"{param('input_size')} says otherwise."
        )
    return result


def listed(values: Sequence[float]) -> str:
    """Constants as they are typed."""
    return ",".join(f"{value:g}" for value in values)


def matched(
    dataset: ImageDataset,
    labels: Tensor,
    network: str,
    classes: ClassNames | None,
    num_classes: int,
    given: Mapping[str, str | int] | None = None,
) -> ClassMap:
    """The output of a network that belongs to each class of a data set; any order by position is said.

    Args:
        dataset: The data set.
        labels: Its labels, int64 (N,).
        network: Name of the network.
        classes: Names of its outputs, if they are known.
        num_classes: Number of outputs.
        given: For some classes of the data set the name, id or number of an output, whatever their names say.

    Raises:
        InputError: Some names match and others do not, or there are no names to match and the numbers differ.
    """
    if dataset.are_outputs and len(dataset.class_names) == num_classes:
        ids = None if classes is None or classes.ids is None else tuple(classes.ids)
        return ClassMap(tuple(range(num_classes)), tuple(dataset.class_names), by_position=False, ids=ids)
    class_map = match_classes(
        dataset.class_names,
        dataset.class_ids,
        classes,
        num_classes,
        what=f"{dataset.name} with {network}",
        present=torch.unique(labels).tolist(),
        is_numbered=dataset.is_numbered,
        given=given,
    )
    if class_map.by_position and dataset.is_numbered:
        note(f"The classes of {dataset.name} are numbers, which are taken as those of the outputs of {network}.")
    elif class_map.by_position:
        are_named = classes is not None and len(classes.names) == num_classes
        why = (
            f"The classes of {dataset.name} are not named as those of {network}"
            if are_named
            else f"The outputs of {network} have no names that match the classes of {dataset.name}"
        )
        warn(f"{why}; they are taken as its outputs in this order: {first_few(class_map.names, 10)}.")
    return class_map


def class_names_of(classifier: Classifier) -> ClassNames | None:
    """The names of a network's outputs, if they are known."""
    if classifier.new_head is not None:
        return ClassNames(classifier.new_head.class_names)
    if classifier.lacks_head:  # what its weights say of classes is of a head that is left out
        return ClassNames(*classifier.entry.outputs()) if classifier.entry.outputs is not None else None
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    if metadata is not None and metadata.class_names is not None:
        known = known_class_names(metadata.dataset, certain=True)
        ids = known.ids if known is not None and list(known.names) == metadata.class_names else None
        return ClassNames(metadata.class_names, metadata.class_ids or ids)
    if classifier.entry.outputs is not None:
        return ClassNames(*classifier.entry.outputs(), certain=classifier.uses_default_weights)
    return known_class_names(classifier.entry.dataset, certain=classifier.uses_default_weights)
