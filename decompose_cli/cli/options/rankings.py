"""The options that say which features classes use; their help takes the rankings from the table of rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from decompose_cli.cli.options.declaration import option
from decompose_cli.decomposition.ranking import DEFAULT_METHOD, RANKINGS

METHODS = "|".join(RANKINGS)
"""The names of the rankings, for the help of ``--method``."""
METHOD_HELP = (
    f"How features are scored; {DEFAULT_METHOD} is the published method, "
    f"{' and '.join(ranking.name for ranking in RANKINGS.values() if ranking.needs_gates)} takes the gates in the weights "
    "file."
)

ORDER = Annotated[
    str,
    option(
        "--order",
        metavar="highest|lowest",
        help="Which gates csg takes. The publication took the lowest, which belong to features that a class does not use.",
        show_default=True,
    ),
]
CSG = Annotated[
    Optional[str],
    option(
        "--csg",
        metavar="CHECKPOINT",
        help="Checkpoint of a network with class-specific gates, to compare with.",
    ),
]
INDEX_FILES = Annotated[
    Optional[list[str]],
    option("--indices", "-i", metavar="[NAME=]FILE", help="An index file, used whole; repeatable."),
]
L2 = Annotated[
    Optional[float],
    option(
        "--l2",
        metavar="STRENGTH",
        help="Strength of the penalty of fits. Default: chosen, from 0.1 to 0.00001, on images that are not measured.",
    ),
]
PREDICTIONS = Annotated[
    Optional[Path],
    option(
        "--predictions",
        metavar="FILE.csv",
        help="Also write, for each image: file, label, and prediction, probability and margin of each head.",
    ),
]
FILTERS_OF_CLASSES = Annotated[
    Optional[Path],
    option("--indices", "-i", metavar="FILE", help="Index file with the filters of each class."),
]
FILTERS_PER_CLASS = Annotated[
    Optional[int],
    option(
        "-k",
        "--k",
        metavar="K",
        help="Without -i: filters per class: so many features with its highest weights. Default: 5.",
    ),
]


def listed() -> str:
    """The names of the rankings, as a sentence lists them."""
    return ", ".join(RANKINGS)


def fitted() -> str:
    """The names of those that fit heads, which take longer."""
    return ", ".join(name for name, ranking in RANKINGS.items() if ranking.is_fitted)
