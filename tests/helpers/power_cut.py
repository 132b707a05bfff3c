"""A power cut at a chosen moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PowerCut = Callable[..., AbstractContextManager[None]]
"""What the fixture ``power_cut`` gives: :func:`power_cut`."""


class PowerFailure(BaseException):
    """The machine is off."""


@contextmanager
def power_cut(name: str, number: int = 1) -> Iterator[None]:
    """The power fails in this block, right after the ``number``-th file of that name has got its place on the disk.

    The disk then stays as it is: what the program would do on its way out, such as removing files, it no longer does.
    The block has to be cut; the test fails if it comes to its end.
    """
    places = 0

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def cut(_: Path) -> None:
        nonlocal places
        places += 1
        if places == number:
            for method in ("replace", "rename", "hardlink_to", "unlink", "rmdir"):
                patch.setattr(Path, method, nothing)
            raise PowerFailure

    with pytest.raises(PowerFailure), pytest.MonkeyPatch.context() as patch, watched(name, cut):
        yield


@contextmanager
def cut_before(number: int) -> Iterator[list[str]]:
    """The power fails in this block right before the ``number``-th change of a name, if there are so many.

    Gives the changes that were made by then.
    """
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def counted(method: str) -> None:
            real = getattr(Path, method)

            def change(path: Path, *arguments: Any, **how: Any) -> Any:
                if len(made) >= number:
                    return None
                if len(made) == number - 1:
                    made.append("cut")
                    raise PowerFailure
                done = real(path, *arguments, **how)
                made.append(f"{method} {Path(arguments[0]).name if method == 'replace' else path.name}")
                return done

            patch.setattr(Path, method, change)

        for method in ("replace", "rename", "hardlink_to", "unlink", "rmdir"):
            counted(method)
        with suppress(PowerFailure):
            yield made


@contextmanager
def watched(name: str, seen: Callable[[Path], None]) -> Iterator[None]:
    """Each file of that name that is written whole in this block is told of once it is in place."""

    def place(path: Path, target: Path | str) -> Path:
        placed = replace(path, target)
        if Path(target).name == name:
            seen(Path(target))
        return placed

    replace = Path.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", place)
        yield
