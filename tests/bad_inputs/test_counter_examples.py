"""What is good in the tables works."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.rows import results

VALID = [
    "mutual-info -i {m}/document.json",
    "mutual-info resnet20-digits -i a={m}/plain.json -i b={m}/document.json --csg {m}/csg.pth",
    "mutual-info -i {m}/plain.json --num-features 64",
    "mutual-info --csg {m}/csg_alone.pth -k 5",
    "mutual-info --csg {m}/csg.pth -k 0.5",
    "essential {images}/one_each -i {m}/plain.json --csg {m}/csg.pth --method a={m}/plain.pth,{m}/document.json",
    "essential {images}/one_each resnet20-digits -w {m}/csg.pth --method controls2={m}/plain.pth --repeats 1",
    "selectivity {images}/one_each --layers layer3.2,stem --compare {m}/plain.pth --compare csg={m}/csg.pth",
    "sweep {images}/one_each resnet20-digits -w {m}/csg.pth --methods csg,weight --ks 1,3-5 -i {m}/plain.json",
    "sweep --methods weight --ks 64 --max-drop 0",
]


@pytest.mark.parametrize("line", VALID)
def test_what_is_good_in_the_tables_works(material: Path, line: str) -> None:
    found, _ = results(line, material)
    assert found
