"""What validate says of single images; its counts are tested on published networks and through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.command_line import document_of, row_of, run

from decompose_cli.decomposition.index_set import IndexSet, write_index_set
from decompose_cli.decomposition.refitting import Refitting
from decompose_cli.decomposition.sparse_heads import fit_head
from decompose_cli.engines.validate import MOST_MISTAKES, measure, validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.models.network import HeadTensors

# Two classes, three features; class 0 keeps feature 0, class 1 feature 1, so feature 2 is lost to both.
HEAD = HeadTensors("dense", "fc", torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]]), torch.zeros(2), 3)
INDICES = IndexSet(((0,), (1,)), 3)
FEATURES = torch.tensor(
    [
        [2.0, 0.0, 0.0],  # 0: both right
        [0.0, 3.0, 1.0],  # 1: lost with feature 2, by 3
        [0.0, 1.0, 1.0],  # 2: lost with feature 2, by 1
        [0.0, 5.0, 0.0],  # 3: both wrong, by 5
        [0.0, 2.0, 1.0],  # 4: of class 1, right only without feature 2
        [0.0, 6.0, 0.0],  # 5: both wrong, by 6
    ]
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 0])


def test_images_that_only_the_full_head_gets_right_come_first_and_the_most_confident_errors_lead() -> None:
    found = measure(HEAD, FEATURES, LABELS, ("a", "b"), INDICES)
    assert [mistake.image for mistake in found.mistakes] == [1, 2, 5, 3]
    first = found.mistakes[0]
    assert first.label == 0
    assert first.original is not None
    assert first.decomposed is not None
    assert (first.original.predicted, first.decomposed.predicted) == (0, 1)
    assert first.original.probability == pytest.approx(1 / (1 + torch.e**-1.0))
    assert first.decomposed.probability == pytest.approx(1 / (1 + torch.e**-3.0))


def test_without_indices_they_are_those_of_the_full_head() -> None:
    found = measure(HEAD, FEATURES, LABELS, ("a", "b"))
    assert [mistake.image for mistake in found.mistakes] == [5, 3, 4]
    assert all(mistake.decomposed is None for mistake in found.mistakes)


def test_there_are_no_more_than_can_be_looked_at() -> None:
    found = measure(HEAD, FEATURES[5:].expand(40, -1), LABELS[5:].expand(40), ("a", "b"))
    assert [mistake.image for mistake in found.mistakes] == list(range(MOST_MISTAKES))


@pytest.mark.parametrize("with_original", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_mistakes_against_sorting_image_by_image(seed: int, with_original: bool) -> None:
    """Few values, so that many errors are equally confident: then the earlier image comes first."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(0, 3, (400, 3), generator=generator).float()
    labels = torch.randint(0, 2, (400,), generator=generator)
    head = (
        HEAD
        if with_original
        else HeadTensors(
            "decomposed", "fc", torch.ones(2, 1), torch.zeros(2), 3, torch.tensor([[0], [1]]), torch.ones(2, 1).bool()
        )
    )
    found = measure(head, features, labels, ("a", "b"), INDICES if with_original else None)
    full, cut = features @ HEAD.weight.T, features[:, :2]
    places = []
    for image, label in enumerate(labels.tolist()):
        guess = int(cut[image].argmax())
        if guess != label:
            is_lost = with_original and int(full[image].argmax()) == label
            places.append((not is_lost, -float(cut[image].double().softmax(0)[guess]), image))
    assert len(places) > MOST_MISTAKES
    assert [mistake.image for mistake in found.mistakes] == [image for *_, image in sorted(places)[:MOST_MISTAKES]]


def test_no_images_are_no_accuracy() -> None:
    with pytest.raises(InputError, match="There are no images"):
        measure(HEAD, FEATURES[:0], LABELS[:0], ("a", "b"))


# ---------------------------------------------------------------------------------------------------- fitted anew


def offset_images(seed: int, count: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature c says class c; the last feature says nothing and is about 5 for every image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    noise = 0.1 * torch.randn(count, 5, generator=generator)
    features = torch.nn.functional.one_hot(labels, 5).float() + noise
    features[:, 4] += 5
    return features, labels


def test_refitted_biases_make_up_for_a_feature_that_was_cut() -> None:
    weight = torch.cat([torch.eye(4), torch.tensor([[2.0], [-2.0], [1.0], [0.0]])], 1)
    head = HeadTensors("dense", "fc", weight, -5 * weight[:, 4], 5)
    features, labels = offset_images(0)
    others, truth = offset_images(1)
    data = LabelledFeatures(features, labels, head.weight, list("abcd"), bias=head.bias)
    index_set = IndexSet(((0,), (1,), (2,), (3,)), 5)
    how = Refitting(l2=1e-3, fitted=80, chosen_on=None)
    found = measure(
        head, others, truth, tuple("abcd"), index_set, refitted=(fit_head(data, index_set, "real", 1e-3), how)
    )
    assert found.original is not None
    assert found.decomposed is not None
    assert found.refitted is not None
    assert found.decomposed.correct <= 30, "each of the biases is off"
    assert found.refitted.correct == 80
    assert sum(row.correct for row in found.refitted.per_class) == 80
    assert found.refitted.loss < found.decomposed.loss
    gain, difference = found.refitted.gain, found.refitted.difference
    cut = found.decomposed.correct
    assert gain.points == pytest.approx(100 * (80 - cut) / 80)
    assert (gain.only_cut_correct, gain.only_refitted_correct) == (0, 80 - cut)
    assert gain.mcnemar_p == pytest.approx(2 * 0.5 ** (80 - cut))
    assert difference.points == pytest.approx(100 * (80 - found.original.correct) / 80)
    assert difference.only_decomposed_correct == 80 - found.original.correct
    assert found.refitted.refitting == how


@pytest.mark.usefixtures("no_forward_pass")
def test_refit_fits_the_features_of_the_file_from_the_cache_and_leaves_the_rest_as_it_is() -> None:
    rows = tuple(tuple((7 * c + 5 * j) % 64 for j in range(3)) for c in range(10))
    index_set = IndexSet(rows, 64)
    plain = validate(Inputs(), index_set)
    document = validate(Inputs(), index_set, refit=True)
    found = document.results.refitted
    assert found is not None
    assert document.results.model_copy(update={"refitted": None}) == plain.results
    data = Study(Inputs(), ("train",)).labelled()
    head = fit_head(data, index_set, "real", found.refitting.l2)
    test = Study(Inputs(), ("test",))
    predicted = (test.bank.features.double() @ head.weight.t() + head.bias).argmax(1)
    assert found.correct == int((predicted == test.labels).sum())
    assert document.results.decomposed is not None
    assert found.correct > document.results.decomposed.correct
    chosen = found.refitting.chosen_on
    assert chosen is not None
    assert (chosen.split, chosen.images + chosen.fitted, found.refitting.fitted) == ("train", 1437, 1437)


@pytest.mark.usefixtures("no_forward_pass")
def test_the_table_has_a_row_and_a_column_of_it(tmp_path: Path) -> None:
    file = tmp_path / "k.json"
    write_index_set(file, IndexSet(tuple((c, c + 20) for c in range(10)), 64))
    said = run("validate", "-i", str(file), "--refit", "--l2", "0.001").output
    results = document_of("validate", "-i", str(file), "--refit", "--l2", "0.001")["results"]
    assert row_of(said, "refitted, 2 per class")[1] == f"{results['refitted']['correct']} of 360"
    assert row_of(said, "Class")[-1] == "refitted"
    assert "Refitted minus full: " in said
    assert f"Refitted minus decomposed: {results['refitted']['gain']['points']:+.2f} points" in said
    assert "fitted on 1,437 training images, with a penalty of strength 0.001, as given" in said
