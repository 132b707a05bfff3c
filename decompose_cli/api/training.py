"""Training on from a decomposed network, with what is in memory."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from decompose_cli.api.indices import Indices
from decompose_cli.api.inputs import ClassMapping, Images, check_model, given_set, image_inputs, with_document
from decompose_cli.api.model import Model
from decompose_cli.datasets.batches import BatchImages
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.engines.finetune import finetuned
from decompose_cli.errors import InputError, param
from decompose_cli.models.copying import copied
from decompose_cli.models.network import network_of
from decompose_cli.storage.files import user_path
from decompose_cli.training.finetune_results import FinetuneResults
from decompose_cli.training.finetune_settings import FinetuneSettings
from decompose_cli.training.freezing import Trained
from decompose_cli.training.run_folder import RunFolder, read_state
from decompose_cli.training.session import Request


class Finetuned(FinetuneResults):
    """The results of :func:`finetune`, with the network."""

    _model: Model | None = PrivateAttr(default=None)

    @property
    def model(self) -> Model:
        """The network of :attr:`after`: of the best epoch where images were held out, else of the last."""
        assert self._model is not None  # finetune gives it
        return self._model


def finetune(
    model: Model,
    train: Images,
    test: Images,
    indices: Indices | None = None,
    *,
    k: int | float | None = None,
    method: str | None = None,
    only: Trained | None = None,
    refit: bool = False,
    l2: float | None = None,
    diversity: float | None = None,
    new_head: bool = False,
    full_head_control: bool = False,
    class_map: ClassMapping | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    workers: int = 0,
    seed: int = 0,
    **settings: Any,
) -> Finetuned:
    """Replace the head by one subspace per class and train the network further, to restore its accuracy.

    The recipe is that of ``decompose finetune``, which draws the order of the images and changes them at random itself.
    For steps of your own, train ``decompose(model, indices).module`` as any other module.

    >>> model = load_model()
    >>> train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    >>> indices = extract_indices(extract_features(model, train), k=2)
    >>> results = finetune(model, train, test, indices, epochs=1, batch_size=64)
    >>> results.before.correct < results.after.correct
    True
    >>> results.model.is_decomposed
    True

    Args:
        model: The network; left as it was.
        train: Training images: a data set, or batches, which are read once and kept.
        test: Images that are reported on, which choose nothing.
        indices: The features that each class keeps; without it they are ranked first.
        k: Features per class that are ranked; 5 by default.
        method: How they are ranked; ``frequency`` by default.
        only: What is trained: ``all`` (the default), ``head``, ``head+last-block`` or ``backbone``.
        refit: Whether training begins with weights that are fitted anew.
        l2: Strength of the penalty of fits; chosen by default.
        diversity: How much the diversity of maps counts in the loss.
        new_head: Whether the head is replaced by one for the classes of the data set first.
        full_head_control: Whether the full head is trained by the same schedule too.
        class_map: Which class of the network a class of a data set is.
        folder: Keeps the run: checkpoints, logs, the document; a folder that is removed afterwards by default.
        overwrite: Whether a run that is in the folder may be replaced.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: Processes that decode images of a data set.
        seed: Of order and changes of the images.
        settings: What of the recipe is otherwise, such as ``epochs``, ``lr`` and ``batch_size``: the names of
            :class:`decompose_cli.training.settings.Settings`.

    Raises:
        InputError: Something given cannot be used; or batches hold values that are no pixels of 256 levels under the
            model's ``mean`` and ``std``, so that the recipe cannot be applied to them.
        DecomposeError: The work failed.
    """
    check_model(model)
    inputs = image_inputs(model, {"test": test, "train": train}, class_map, device=device, workers=workers, seed=seed)
    for split, images in inputs.splits.items():
        if isinstance(images, BatchImages) and not images.has_levels:
            raise InputError(
                f"The batches of {param(split)} hold values that are no pixels of 256 levels under the model's mean "
                "and std, which the recipe needs.",
                hint=f"Give load_model the {param('mean')} and {param('std')} that the images were normalised by, or "
                "train the module of decompose(model, indices) yourself.",
            )
    choices = FinetuneSettings(
        indices=given_set(indices, model.num_classes, model.num_features),
        k=k,
        method=method,
        only=only,
        refit=refit,
        l2=l2,
        diversity=diversity,
        new_head=new_head,
        predictions=True,
        full_head_control=full_head_control,
    )
    with ExitStack() as stack:
        kept = stack.enter_context(tempfile.TemporaryDirectory()) if folder is None else user_path(folder)
        run = RunFolder(Path(kept) / "run" if folder is None else Path(kept))
        request = Request(
            dataclasses.replace(inputs, split=None),
            {**settings, "seed": seed},
            folder=run.path,
            overwrite=overwrite,
        )
        document, start = finetuned(request, choices)
        module = copied(start)
        module.load_state_dict(read_state(run.last if document.results.best is None else run.best)["state_dict"])
    found = document.results
    results = Finetuned.model_construct(**{name: getattr(found, name) for name in type(found).model_fields})
    network = network_of(module, model.network.input_size, model.head_name)
    names = inputs.splits["train"].class_names
    classes = ClassNames(names) if new_head else model.classes
    results._model = dataclasses.replace(model, network=network, classes=classes, gates=None, sparse=None)
    with_document(document.model_copy(update={"results": results}))
    return results
