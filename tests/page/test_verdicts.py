"""The first section: what results say in a sentence for each question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import decompose_cli as dc


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that answer every question."""
    model = dc.load_model()
    train, test = (dc.extract_features(model, dc.load_dataset("digits", split)) for split in ("train", "test"))
    indices = dc.extract_indices(train, k=5)
    results = {
        "validate": dc.validate(test, indices),
        "sweep": dc.sweep(test, train, methods=["frequency"], ks=[1, 3, 5], max_drop=1),
        "sparsify": dc.sparsify(train, [2], "backward", test=test),
        "essential": dc.essential(test, indices, repeats=2, controls=3),
        "overlap": dc.mutual_info({"mine": indices}),
    }
    place = tmp_path_factory.mktemp("results")
    for name, found in results.items():
        found.save(place / f"{name}.json")
    return place


def answers_of(places: list[Path]) -> dict[str, list[str]]:
    """The answers on a page, by their question."""
    (section,) = dc.report(places).sections[:1]
    (verdict,) = [block for block in section.blocks if block.kind == "verdict"]
    return {answer.question: [sentence for sentence, _ in answer.sentences] for answer in verdict.answers}


def test_every_question_has_its_number_interval_and_link(folder: Path) -> None:
    found = answers_of([folder])
    assert list(found) == [
        "What does it cost?",
        "Which class pays most?",
        "How few features are enough?",
        "Are they the right ones?",
        "Do classes share them?",
    ]
    assert found["What does it cost?"][1] == (
        "validate, test images: 5 features per class, cut from the full head: 351 of 360 images right in place of 358, "
        "-1.94 points, 95% interval -4.02 to -0.43."
    )
    assert "(no difference that could not be chance)" in found["What does it cost?"][0]
    assert "5, 36 to 33 of its 36 images, -8.33 points" in found["Which class pays most?"][1]
    (enough,) = found["How few features are enough?"]
    assert enough.startswith("20 features in all, 1 to 3 per class (frequency): chosen on the images of train to lose")
    assert "at most 1 point there; on those of test -2.22 points" in enough
    assert enough.endswith(", more for all together than was allowed where the set was chosen.")
    right = found["Are they the right ones?"]
    assert re.search(r"with noise on all others [0-9.]+%: [+-][0-9.]+ points, 95% interval", right[0])
    assert re.search(r"at k = 3 features drawn at random give [0-9.]+% .* those of frequency 97.2%", right[1])
    (shared,) = found["Do classes share them?"]
    assert "30 features in one class alone, 10 in several, 24 in none; Jaccard index of two classes 0.025" in shared
    assert "by chance 0.045" in shared


def test_links_lead_to_sections_that_are_there(folder: Path) -> None:
    page = dc.report([folder]).html
    (verdict,) = re.findall('<dl class="verdict">.*?</dl>', page, re.DOTALL)
    links = re.findall(r'<a href="#([a-z-]+)">([^<]+)</a>', verdict)
    assert {link for link, _ in links} == {"accuracy", "sparse", "by-k", "essentiality", "overlap"}
    for link, title in links:
        assert re.search(f'<section id="{link}".*?<h2 id="{link}-title">{title}</h2>', page, re.DOTALL)


def test_one_result_needs_no_name_and_random_weights_are_marked(folder: Path, tmp_path: Path) -> None:
    (cost,) = answers_of([folder / "validate.json"])["What does it cost?"]
    assert cost.startswith("5 features per class, cut from the full head: 351 of 360")
    text = (folder / "validate.json").read_text().replace('"weights": null', '"weights": "random"')
    (tmp_path / "random.json").write_text(text)
    (cost,) = answers_of([tmp_path / "random.json"])["What does it cost?"]
    assert cost.endswith("(The weights are random.)")


def test_what_no_result_answers_is_not_asked(folder: Path) -> None:
    assert list(answers_of([folder / "overlap.json"])) == ["Do classes share them?"]


def test_many_results_are_counted(folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        text = (folder / "validate.json").read_text()
        (tmp_path / f"{number}.json").write_text(text)
    cost = answers_of([tmp_path])["What does it cost?"]
    assert len(cost) == 5
    assert cost[-1] == "2 more results below."


def test_results_have_the_names_that_they_are_given(folder: Path, tmp_path: Path) -> None:
    places: list[str | Path] = [f"five={folder / 'validate.json'}", f"sets={folder}"]
    found = dc.report(places)
    names = {source.name for source in found.sources}
    assert "five" in names
    assert "sets: sweep, test images" in names
    odd = tmp_path / "a=b.json"
    odd.write_bytes((folder / "validate.json").read_bytes())
    (source,) = dc.report([odd]).sources
    assert source.name == "validate, test images", "a file may be named so"
    for wrong in ("five=missing.json", "=x.json", "five="):
        with pytest.raises(dc.InputError, match="does not exist"):
            dc.report([wrong])
