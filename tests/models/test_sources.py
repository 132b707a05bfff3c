"""Which files make another network of the user's, so that features of the one before are not taken for its own."""

from __future__ import annotations

import importlib
import py_compile
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.processes import python

from decompose_cli.models.sources import source_digest

NET = "from torch import nn\n\n\ndef net():\n    return nn.Linear(2, 2)\n"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the Python path that is not the current one."""
    folder = tmp_path / "beside"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget()


def forget() -> None:
    for key in [key for key, module in sys.modules.items() if "/beside/" in str(getattr(module, "__file__", ""))]:
        del sys.modules[key]


def digest(name: str = "the_net") -> str:
    """The digest that another process would find: nothing of the user's is imported before."""
    forget()
    importlib.invalidate_caches()
    importlib.import_module(name)
    return source_digest(name)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


CASES: dict[str, tuple[dict[str, str], str]] = {
    "itself": ({"the_net.py": NET}, "the_net.py"),
    "imported at the top": ({"the_net.py": f"import parts\n{NET}", "parts.py": "x = 1\n"}, "parts.py"),
    "imported from": ({"the_net.py": f"from parts import x\n{NET}", "parts.py": "x = 1\n"}, "parts.py"),
    "imported by what is imported": (
        {"the_net.py": f"import parts\n{NET}", "parts.py": "import deep\n", "deep.py": "x = 1\n"},
        "deep.py",
    ),
    "imported in a function": (
        {"the_net.py": f"{NET}\n\ndef later():\n    import parts\n    return parts\n", "parts.py": "x = 1\n"},
        "parts.py",
    ),
    "imported in a function by a submodule": (
        {
            "the_net.py": f"{NET}\n\ndef later():\n    from pack.sub import thing\n    return thing\n",
            "pack/__init__.py": "",
            "pack/sub/__init__.py": "def thing():\n    from . import deep\n    from ..more import y\n",
            "pack/sub/deep.py": "x = 1\n",
            "pack/more.py": "y = 1\n",
        },
        "pack/more.py",
    ),
    "the package of what is imported": (
        {
            "the_net.py": f"import pack.sub\n{NET}",
            "pack/__init__.py": "z = 1\n",
            "pack/sub.py": "",
        },
        "pack/__init__.py",
    ),
    "named in a text inside a function": (
        {
            "the_net.py": f"{NET}\n\ndef later():\n    import importlib\n    importlib.import_module('parts')\n",
            "parts.py": "x = 1\n",
        },
        "parts.py",
    ),
    "a file of settings": (
        {"the_net.py": f"{NET}\n\ndef later():\n    return open('widths.json')\n", "widths.json": "[3]"},
        "widths.json",
    ),
    "named in a text": (
        {"the_net.py": f"import importlib\nimportlib.import_module('parts')\n{NET}", "parts.py": "x = 1\n"},
        "parts.py",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_edit_changes_the_digest(case: str, beside: Path) -> None:
    files, edited = CASES[case]
    for name, text in files.items():
        write(beside / name, text)
    before = digest()
    assert digest() == before, "nothing has changed"
    write(beside / edited, files[edited] + "\nedited = True\n")
    assert digest() != before


def test_compiled_modules_and_links_count_too(beside: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "real.py", "x = 1\n")
    (beside / "linked.py").symlink_to(tmp_path / "elsewhere" / "real.py")
    write(beside / "source.py", "x = 1\n")
    py_compile.compile(str(beside / "source.py"), str(beside / "compiled.pyc"))
    (beside / "source.py").unlink()
    write(beside / "the_net.py", f"import linked, compiled\n{NET}")
    before = digest()
    write(tmp_path / "elsewhere" / "real.py", "x = 2\n")
    after = digest()
    assert after != before
    write(beside / "source.py", "x = 3\n")
    py_compile.compile(str(beside / "source.py"), str(beside / "compiled.pyc"))
    (beside / "source.py").unlink()
    assert digest() != after


def test_an_archive_on_the_path_counts_as_a_whole(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(text: str) -> str:
        with zipfile.ZipFile(beside / "nets.zip", "w") as archive:
            archive.writestr("zipped_net.py", text)
        sys.path_importer_cache.clear()
        return digest("zipped_net")

    monkeypatch.syspath_prepend(str(beside / "nets.zip"))
    before = pack(NET)
    assert digest("zipped_net") == before
    assert pack(f"{NET}edited = True\n") != before


@pytest.mark.parametrize(
    "make",
    [
        lambda beside: write(beside / f"un{'related'}.py", "x = 1\n"),  # no source names it, this one included
        lambda beside: write(beside / "site-packages" / "parts.py", "x = 2\n"),
    ],
    ids=["a file that is not imported", "an installed package"],
)
def test_other_files_leave_it(make: Callable[[Path], None], beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(beside / "site-packages"))
    write(beside / "site-packages" / "parts.py", "x = 1\n")
    write(beside / "the_net.py", f"import parts, torch, json\nfrom torchvision import models\n{NET}")
    before = digest()
    make(beside)
    assert digest() == before


def test_a_broken_file_that_is_never_imported_stops_nothing(beside: Path) -> None:
    write(beside / "the_net.py", f"{NET}\n\ndef later():\n    import parts, missing\n")
    write(beside / "parts.py", "def broken(:\n")
    before = digest()
    write(beside / "parts.py", "def mended(): pass\n")
    assert digest() != before


def test_what_is_imported_later_is_the_same_before_and_after(beside: Path) -> None:
    """The network of the first command has run; that of the second, which reads the cache, has not."""
    write(beside / "the_net.py", f"{NET}\n\ndef later():\n    import parts\n    return parts\n")
    write(beside / "parts.py", "x = 1\n")
    before = digest()
    sys.modules["the_net"].later()
    assert source_digest("the_net") == before


def test_validate_does_not_answer_from_the_features_of_the_code_before(
    beside: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b"], ("test",), n=3, side=8)
    write(beside / "parts.py", "def f(x):\n    return x.mean((2, 3))\n")
    write(
        beside / "the_net.py",
        "import torch\nfrom torch import nn\nfrom parts import f\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n"
        "        self.fc = nn.Linear(3, 2)\n\n    def forward(self, x):\n        return self.fc(f(x))\n",
    )
    code = (
        "import json, sys\nfrom decompose_cli.engines.validate import validate\n"
        "from decompose_cli.features.inputs import Inputs\n"
        "inputs = Inputs(model='the_net:Net', dataset='folder:images', input_size='8', workers=0)\n"
        "print(validate(inputs).cache.features)"
    )
    monkeypatch.setenv("PYTHONPATH", str(beside), prepend=":")
    assert [python(code).stdout.strip() for _ in range(2)] == ["miss", "hit"]
    write(beside / "parts.py", "def f(x):\n    return x.amax((2, 3))\n")
    assert python(code).stdout.strip() == "miss"
