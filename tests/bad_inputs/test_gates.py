"""Class-specific gates that cannot be used, or that are odd."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import REFUSED, refused
from helpers.inputs import FEATURES
from helpers.rows import Rows, cases, results, words

NO_GATES = "plain.pth holds no class-specific gates"
WHOLE_NUMBERS = "csg_whole.pth: 'csg' holds int64, not floating-point gates"
ONE_DIMENSION = "csg_flat.pth: 'csg' has the shape (640,), not (classes, features)"
GATES_NAN = "csg_nan.pth are not finite: csg contains NaN"
FITS = "but the network has 10 classes and 64 features"
TINY = "{images}/one_each resnet20-digits"

GATES: Rows = [
    ("mutual-info: none", "mutual-info --csg {m}/plain.pth", NO_GATES),
    ("mutual-info: one-dimensional", "mutual-info --csg {m}/csg_flat.pth", ONE_DIMENSION),
    ("mutual-info: whole numbers", "mutual-info --csg {m}/csg_whole.pth", WHOLE_NUMBERS),
    ("mutual-info: no class", "mutual-info --csg {m}/csg_nothing.pth", "'csg' has the shape (0, 64)"),
    ("mutual-info: NaN", "mutual-info --csg {m}/csg_nan.pth", GATES_NAN),
    ("mutual-info: more than D of them", "mutual-info --csg {m}/csg.pth -k 65", "-k 65 is more than the 64 features"),
    ("mutual-info: fraction of negative ones", "mutual-info --csg {m}/csg_negative.pth -k 0.5", "not negative", "csg"),
    (
        "mutual-info: fraction of the lowest",
        "mutual-info --csg {m}/csg.pth -k 0.5 --order lowest",
        "of the lowest gates",
    ),
    ("mutual-info: fraction of zero", "mutual-info --csg {m}/csg_zero.pth -k 0.5", "class 0", "are zero"),
    ("mutual-info: no weights to rank by", "mutual-info --method csg", "'csg' needs class-specific gates"),
    (
        "mutual-info: ranked by those of other classes",
        f"mutual-info {TINY} -w {{m}}/csg_rows.pth --method csg",
        "csg_rows.pth have the shape (9, 64), but the network has 10 classes and 64 features",
    ),
    (
        "mutual-info: ranked by one-dimensional ones",
        f"mutual-info {TINY} -w {{m}}/csg_flat.pth --method csg",
        "csg_flat.pth have the shape (640,), but the network has 10 classes and 64 features",
    ),
    ("mutual-info: ranked by NaN", f"mutual-info {TINY} -w {{m}}/csg_nan.pth --method csg", GATES_NAN),
    ("essential: none", "essential --csg {m}/plain.pth", NO_GATES),
    ("essential: one-dimensional", "essential --csg {m}/csg_flat.pth", ONE_DIMENSION),
    ("essential: of other classes", "essential --csg {m}/csg_rows.pth", f"csg_rows.pth have the shape (9, 64), {FITS}"),
    (
        "essential: of other features",
        "essential --csg {m}/csg_columns.pth",
        f"csg_columns.pth have the shape (10, 65), {FITS}",
    ),
    ("essential: NaN", "essential --csg {m}/csg_nan.pth", GATES_NAN),
    ("essential: without a network", "essential --csg {m}/csg_alone.pth", "csg_alone.pth does not fit", "97 missing"),
    ("essential: more than D of them", "essential -i {m}/plain.json --csg {m}/csg.pth -k 65", "-k 65 is more than"),
    ("essential: decomposed", "essential --csg {m}/decomposed.pth", "decomposed.pth holds no class-specific gates"),
    ("sweep: none", "sweep --methods csg --ks 1", "'csg' needs class-specific gates"),
    ("sweep: of other classes", f"sweep {TINY} -w {{m}}/csg_rows.pth --methods csg --ks 1", "have the shape (9, 64)"),
    ("sweep: of other features", f"sweep {TINY} -w {{m}}/csg_columns.pth --methods csg --ks 1", "the shape (10, 65)"),
    ("sweep: one-dimensional", f"sweep {TINY} -w {{m}}/csg_flat.pth --ks 1", "have the shape (640,)"),
    ("sweep: NaN", f"sweep {TINY} -w {{m}}/csg_nan.pth --ks 1", GATES_NAN),
    ("sweep: of a network without", f"sweep {TINY} --methods weight,csg --ks 1", "'csg' needs class-specific gates"),
    ("extract-indices: none", "extract-indices --method csg", "'csg' needs class-specific gates"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(GATES))
def test_bad_gates(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


def test_sets_of_all_features_share_no_information_and_everything_else(material: Path) -> None:
    """Membership that never varies has no entropy to divide by."""
    found, _ = results("mutual-info --csg {m}/csg.pth -k 64", material)
    row = found["sets"]["csg"]["64"]
    assert (row["mean"], row["normalized_mean"], row["jaccard_mean"]) == (0, 1, 1)
    assert (row["unused"], row["shared"]) == (0, FEATURES)


def test_gates_that_are_all_equal_are_taken_from_the_end(material: Path) -> None:
    found, _ = results("mutual-info --csg {m}/csg_zero.pth -k 5", material)
    row = found["sets"]["csg"]["5"]
    assert (row["jaccard_mean"], row["unused"], row["shared"]) == (1, FEATURES - 5, 5)


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_order_of_gates_is_shown(material: Path, order: str) -> None:
    line = "essential {images}/one_each -i {m}/plain.json --csg {m}/csg.pth --repeats 1 --controls 0"
    found, said = results(f"{line} --order {order}", material)
    assert order in found["summary"]["csg"]["indices"]
    (shown,) = [line for line in said.splitlines() if line.startswith("csg: features from ")]
    assert order in shown
