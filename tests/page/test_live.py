"""What if: features switched in a real browser, and what the page says of it beside what the commands say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from decompose_cli.decomposition.heads import highest_weights
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.engines.filters import FiltersSettings, filters
from decompose_cli.engines.validate import measure, validate
from decompose_cli.features import cache
from decompose_cli.features.bank import BankFolder
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.network import HeadTensors
from decompose_cli.page.report import Report, report
from decompose_cli.storage.result_document import DatasetInfo, ModelInfo, ResultDocument, WeightsInfo
from tests.helpers.visits import SIZES, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PRESSED, FREE = ".live-matrix button[aria-pressed=true]", ".live-matrix button[aria-pressed=false]:enabled"


def measured(folder: Path, index_set: IndexSet | None = None) -> ResultDocument[Any]:
    """The shipped network cut to the five highest weights of each class, measured; the document lies in a folder."""
    study = Study(Inputs(), ("test",))
    index_set = index_set or highest_weights(study.head, study.class_map.names, 5)
    document = validate(Inputs(), index_set)
    (folder / "validate.json").write_text(document.to_json(), encoding="utf-8")
    return document


def blocks(found: Report) -> Sequence[Any]:
    (section,) = [section for section in found.sections if section.id == "what-if"]
    return section.blocks


@pytest.fixture
def visit(warm: None, browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    """The page of the shipped network's digits, open."""
    measured(tmp_path)
    report([tmp_path / "validate.json"], output=tmp_path / "page.html")
    visit = Visit(browser, tmp_path / "page.html")
    yield visit
    visit.check()


def test_five_states_are_what_the_commands_say(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    before = json.loads((tmp_path / "validate.json").read_text())["results"]
    slider = page.locator(".live input[type=range]")

    def press(selector: str, number: int) -> None:
        page.locator(selector).nth(number).click()

    def states() -> Iterator[IndexSet | None]:
        yield None
        press(PRESSED, 3)
        yield said()
        press(FREE, 40)
        press(PRESSED, 0)
        yield said()
        for k in ("2", "9"):
            slider.fill(k)
            yield said()
        press(PRESSED, 12)
        yield said()

    def said() -> IndexSet:
        path = tmp_path / "by-hand.json"
        path.write_text(page.locator(".live textarea").input_value(), encoding="utf-8")
        return read_index_set(path)

    counts = []
    for state in states():
        results = before if state is None else json.loads(validate(Inputs(), state).to_json())["results"]
        decomposed, total = results["decomposed"], results["total"]
        text = page.locator(".live-said").inner_text()
        count = int(text.split(" of ")[0].replace(",", ""))
        assert abs(count - decomposed["correct"]) <= 0.003 * total
        counts.append(count)
        assert f"the full head has {before['original']['correct']:,}." in text
        rows = page.locator(".live-sides table").first.locator("tbody tr").all()
        shown = [int(row.locator("td").nth(1).inner_text().split(" of ")[0]) for row in rows]
        assert sum(shown) == count
        assert sum(abs(a - b["correct"]) for a, b in zip(shown, decomposed["per_class"], strict=True)) <= 0.003 * total
        cells = page.locator(".live-sides table.grid tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.cells].slice(1).map((cell) => parseInt(cell.textContent) || 0))"
        )
        differs = (torch.tensor(cells) - torch.tensor(decomposed["confusion"])).abs().sum()
        assert int(differs) <= 2 * 0.003 * total
        assert ("as at the start" in text) == (state is None)
        if state is not None:
            assert state.provenance["method"] == "chosen by hand on these test images"
    assert counts[0] == before["decomposed"]["correct"]
    assert len(set(counts)) >= 3, "the states differ"


def test_every_step_can_be_taken_back(visit: Visit) -> None:
    page = visit.page
    undo, again = (page.get_by_role("button", name=name) for name in ("Undo", "As at the start"))
    start = page.locator(".live-said").inner_text()
    assert undo.is_disabled()
    assert again.is_disabled()
    page.locator(PRESSED).first.click()
    once = page.locator(".live-said").inner_text()
    page.locator(".live input[type=range]").fill("1")
    page.locator(PRESSED).first.click()
    assert page.locator(PRESSED).count() == 9
    for _ in range(2):
        undo.click()
    assert page.locator(".live-said").inner_text() == once != start
    page.keyboard.press("Control+z")
    assert page.locator(".live-said").inner_text() == start
    assert undo.is_disabled()
    page.locator(".live input[type=range]").fill("1")
    again.click()
    assert page.locator(".live-said").inner_text() == start
    undo.click()
    assert page.locator(PRESSED).count() == 10


def test_a_drag_that_ends_where_it_began_is_a_step_of_its_own(visit: Visit) -> None:
    page, slider = visit.page, visit.page.locator(".live input[type=range]")
    box = slider.bounding_box()
    assert box is not None
    y, start = box["y"] + box["height"] / 2, box["x"] + 0.5 * box["width"]
    page.mouse.move(start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, y, steps=3)
    page.mouse.move(start, y, steps=3)
    page.mouse.up()
    page.locator(PRESSED).first.click()
    toggled = page.locator(PRESSED).count()
    slider.fill("2")
    page.get_by_role("button", name="Undo").click()
    assert page.locator(PRESSED).count() == toggled


def test_buttons_keep_the_focus_where_they_have_done_all(visit: Visit) -> None:
    page = visit.page
    page.locator(PRESSED).first.click()
    page.get_by_role("button", name="Undo").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Undo"
    page.keyboard.press("Enter")
    assert "as at the start" in page.locator(".live-said").inner_text()


def test_the_keyboard_is_enough_and_every_control_has_a_name(visit: Visit) -> None:
    page = visit.page
    assert page.locator(".live-matrix button[tabindex='0']").count() == 1
    first = page.locator(".live-matrix button").first
    first.focus()
    before = first.get_attribute("aria-pressed")
    page.keyboard.press("Space")
    assert first.get_attribute("aria-pressed") != before
    name = first.get_attribute("aria-label")
    assert name is not None
    assert name.startswith("0, feature ")
    for key, label in (
        ("ArrowDown", "1, "),
        ("End", "1, "),
        ("ArrowRight", "1, "),
        ("ArrowUp", "0, "),
        ("Home", "0, "),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.ariaLabel").startswith(f"{label}feature "), key
    assert page.evaluate("document.activeElement.ariaLabel") == name
    assert page.locator(".live-matrix button[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert first.get_attribute("aria-pressed") == before
    assert page.locator(".live-said[role=status]").count() == 1
    page.locator(".live input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(PRESSED).count() == 40


def test_a_class_stands_beside_another(visit: Visit) -> None:
    """As ``filters --against`` says it, and of the features as they are switched."""
    page, place = visit.page, visit.page.locator(".live-beside")
    place.locator("select").first.select_option("3")
    nearest = place.locator("select").last.locator("option").all_inner_texts()
    document = filters(Inputs(), FiltersSettings("3", against="8")).results
    expected = [
        f"{one.class_name} ({one.both} in common, {one.only_first} and {one.only_second} alone)"
        for one in document.neighbours
    ]
    assert nearest == expected
    place.locator("select").last.select_option("8")
    assert document.beside is not None

    def rows() -> list[list[str]]:
        lines: list[list[str]] = place.locator("tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        return lines

    who = {"both": "both", "first": "3", "second": "8"}
    for row, one in zip(rows(), document.beside.features, strict=True):
        assert row[:2] == [str(one.feature), who[one.used_by]]
        given = [one.to_first.first, one.to_first.second, one.to_second.first, one.to_second.second, one.apart]
        assert [float(text) for text in row[2:]] == pytest.approx(given, abs=2e-3)
    before = rows()
    page.locator(".live input[type=range]").fill("1")
    assert len(rows()) == 2 < len(before)
    assert "share no feature; 1 of 3 alone, 1 of 8 alone." in place.inner_text()


def test_it_fits_a_phone_and_moves_nothing(warm: None, browser: Browser, tmp_path: Path) -> None:
    measured(tmp_path)
    report([tmp_path / "validate.json"], output=tmp_path / "page.html")
    visit = Visit(browser, tmp_path / "page.html", SIZES["phone"])
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shifts = visit.page.evaluate(
        "new Promise((done) => new PerformanceObserver((list) => done(list.getEntries().map((one) => one.value)))"
        ".observe({ type: 'layout-shift', buffered: true }) || setTimeout(() => done([]), 200))"
    )
    assert sum(shifts) < 0.02
    visit.check()


def test_without_scripts_it_is_a_sentence_and_static_pages_have_none(
    warm: None, browser: Browser, tmp_path: Path
) -> None:
    measured(tmp_path)
    report([tmp_path / "validate.json"], output=tmp_path / "page.html")
    visit = Visit(browser, tmp_path / "page.html", java_script_enabled=False)
    assert "This part needs JavaScript" in visit.page.locator("#what-if").inner_text()
    assert visit.page.locator(".live").is_hidden()
    visit.check()
    static = report([tmp_path / "validate.json"], is_live=False)
    assert "what-if" not in [section.id for section in static.sections]
    assert '"levels"' not in static.html


def test_what_it_needs_comes_from_the_cache_alone(
    no_forward_pass: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = measured(tmp_path)
    place = tmp_path / "validate.json"
    assert blocks(report([place]))[0].blocks[0].kind == "live"
    changed = json.loads(document.to_json())
    changed["results"]["decomposed"]["correct"] += 1
    place.write_text(json.dumps(changed), encoding="utf-8")
    assert "not in the cache" in blocks(report([place]))[0].text, (
        "features that give other figures are not the result's"
    )
    place.write_text(document.to_json(), encoding="utf-8")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "empty"))
    (text,) = blocks(report([place]))
    assert text.text.startswith(
        "Left out for validate, test images: 5 features per class: the features of its images are not in the cache"
    )


def many(folder: Path, names: list[str]) -> None:
    """A result of a network with these classes, and its features in the cache."""
    classes, features, count = len(names), 30, 600
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(classes, features, generator=generator), torch.zeros(classes)
    head = HeadTensors("dense", "fc", weight, bias, features)
    values = torch.randn(count, features, generator=generator).relu()
    labels = (values @ weight.T + 2 * torch.randn(count, classes, generator=generator)).argmax(1)
    transform = {"resize": 8, "crop": [8, 8], "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}
    key = {"weights": "a" * 64, "dataset": "b" * 64, "split": "test", "transform": transform}
    cache.features_folder().mkdir(parents=True)
    bank = BankFolder.create(cache.entry_path(key), labels, head, key=key, description="many", computed_on="cpu")
    with bank.writer() as writer:
        for number, chunk in enumerate(bank.chunks):
            writer.write(number, values[chunk.start : chunk.stop])
    index_set = highest_weights(head, names, 3)
    document = ResultDocument(
        command="validate",
        arguments={"indices": "highest.json"},
        model=ModelInfo(
            name="net",
            num_classes=classes,
            num_features=features,
            head="fc",
            weights=WeightsInfo(source="net.pth", sha256="a" * 64),
        ),
        dataset=DatasetInfo(
            name="folder:many", split="test", images=count, fingerprint="b" * 64, classes=names, **transform
        ),
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        results=measure(head, values, labels, tuple(names), index_set),
    )
    (folder / "validate.json").write_text(document.to_json(), encoding="utf-8")


def test_of_many_classes_some_are_changed_and_all_are_in_the_index_file(browser: Browser, tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(49)] + ["<b>&amp;</b>"]
    many(tmp_path, names)
    report([tmp_path / "validate.json"], output=tmp_path / "page.html")
    visit = Visit(browser, tmp_path / "page.html")
    page = visit.page
    results = json.loads((tmp_path / "validate.json").read_text())["results"]
    assert page.locator(".live-said").inner_text().startswith(f"{results['decomposed']['correct']} of 600 right")
    assert page.locator(".live-matrix tbody tr").count() == 10
    page.locator(".live input[type=range]").fill("1")
    page.locator(".live details summary").click()
    found = json.loads(page.locator(".live textarea").input_value())
    assert sorted(map(len, found["classes"])) == [1] * 10 + [3] * 40
    heading = page.locator(".live-sides table").last.locator("thead th").all_inner_texts()
    assert heading == ["True class", "Taken for", "Images", "Change"]
    visit.check()


def test_results_share_the_room_and_those_without_any_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three heads of one network has some images; a second look at the same head says nothing anew."""
    many(tmp_path, [f"class {number}" for number in range(12)])
    text = (tmp_path / "validate.json").read_text()
    bank = next(cache.banks()).bank()
    for k in (1, 2, 3):
        index_set = highest_weights(bank.head, [str(number) for number in range(12)], k)
        results = measure(bank.head, bank.features, bank.labels, tuple(map(str, range(12))), index_set)
        document = {**json.loads(text), "results": json.loads(results.model_dump_json())}
        (tmp_path / f"k{k}.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr("decompose_cli.page.context._LIVE_BYTES", 140_000)
    found = blocks(report([tmp_path], is_live=True))
    lives = [one.blocks[0] for one in found if one.kind in ("group", "fold")]
    assert [one.data["total"] for one in lives] == [600] * 3
    assert all(100 <= one.data["images"] < 600 for one in lives)
    assert "the same share of each class" in lives[0].caption
    monkeypatch.setattr("decompose_cli.page.sections.what_if._MOST_STARTS", 2)
    sentences = [one.text for one in blocks(report([tmp_path])) if one.kind == "text"]
    assert sentences
    assert all(sentence.endswith("the page has 2 such heads already.") for sentence in sentences)


@pytest.mark.parametrize("wrong", ["weights", "dataset", "split", "images", "classes", "confusion"])
def test_features_of_anything_else_are_not_taken(wrong: str, tmp_path: Path) -> None:
    many(tmp_path, [f"class {number}" for number in range(12)])
    place = tmp_path / "validate.json"
    document = json.loads(place.read_text())
    changes: dict[str, Callable[[], object]] = {
        "weights": lambda: document["model"]["weights"].update(sha256="c" * 64),
        "dataset": lambda: document["dataset"].update(fingerprint="c" * 64),
        "split": lambda: document["dataset"].update(split="val"),
        "images": lambda: document["dataset"].update(images=599),
        "classes": lambda: document["model"].update(num_classes=10**9),
        "confusion": lambda: document["results"]["decomposed"]["confusion"].reverse(),
    }
    assert blocks(report([place]))[0].blocks[0].kind == "live"
    changes[wrong]()
    place.write_text(json.dumps(document), encoding="utf-8")
    assert "not in the cache" in blocks(report([place]))[0].text


def test_a_damaged_set_costs_its_head_alone_and_names_no_folder(tmp_path: Path) -> None:
    many(tmp_path, [f"class {number}" for number in range(12)])
    place = tmp_path / "validate.json"
    document = json.loads(place.read_text())
    document["results"]["indices"]["features"]["0"] = [9999]
    place.write_text(json.dumps(document), encoding="utf-8")
    (text,) = blocks(report([place]))
    assert "its set: class 0 has the index 9999, which is not one of 0 to 29." in text.text
    assert str(tmp_path) not in text.text
