"""The shape of the package: who imports whom, how long modules get, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import decompose_cli

PACKAGE = Path(decompose_cli.__file__).parent
ROOT = "decompose_cli"
LONGEST_MODULE = 400

# From the bottom up. A part may import what lies below it, and itself.
FLOORS = (
    {"_torchvision"},
    {"results", "errors", "files", "fingerprints", "progress", "preprocessing", "download"},
    {"models", "norms", "datasets"},
    {"decomposition", "training", "reporting"},
    {"engines"},
    {"page"},
    {"api"},
    {
        "cli",
        "commands",
        "options",
        "console",
        "options_training",
        "display",
        "display_studies",
        "display_looking",
        "display_training",
        "__main__",
    },
)
SIDEWAYS_FREELY = (FLOORS[1], FLOORS[7])
SIDEWAYS = {("models", "norms"), ("training", "decomposition")}
MAY_IMPORT_CLI = {"__main__"}
MAY_IMPORT_ENGINES = {"demo"}


def module_names() -> dict[str, Path]:
    """Dotted name below the package of every module; the package itself is ''."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = module_names()


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Dotted names below the package that a module imports, wherever in it the import stands; '' is the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            # 'from package import name' may name a module or something in it; both readings are kept if they exist.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            names = [name for name in names if name == base or name.removeprefix(f"{ROOT}.") in MODULES]
            if len(names) > 1 and base in (ROOT, *_packages()):
                names.remove(base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in (
            "import_module",
            "__import__",
        ):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        found |= {name.removeprefix(ROOT).lstrip(".") for name in names if name.split(".")[0] == ROOT}
    return found


def _packages() -> set[str]:
    return {f"{ROOT}.{name}" for name, path in MODULES.items() if path.name == "__init__.py" and name}


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = [ROOT, *module.split(".")] if module else [ROOT]
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def floor_of(part: str) -> int:
    for number, floor in enumerate(FLOORS):
        if part in floor:
            return number
    raise AssertionError(f"{part!r} has no floor yet; decide which it belongs to and add it to FLOORS")


def violation(importer: str, target: str) -> str | None:
    """Why ``importer`` may not import ``target``; None if it may."""
    if not importer:
        known = ("", "_torchvision", "api")  # the last one when a name of it is first used
        return None if target in known else "the package itself imports only the torchvision finder"
    if not target:  # its version
        return None
    here, there = importer.split(".")[0], target.split(".")[0]
    if there == "cli" and here not in MAY_IMPORT_CLI:
        return "nothing imports the command line"
    if here == there == "engines":
        alone = importer.split(".")[-1] in MAY_IMPORT_ENGINES or target in ("engines", importer)
        return None if alone else "engines do not import each other"
    if here == there:
        return None
    if floor_of(there) > floor_of(here):
        return "imports go down"
    if floor_of(there) == floor_of(here):
        free = any(here in floor and there in floor for floor in SIDEWAYS_FREELY) or (here, there) in SIDEWAYS
        return None if free else "parts of one floor do not know each other"
    return None


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or "the package")
def test_module_imports_only_what_lies_below_it(module: str) -> None:
    path = MODULES[module]
    targets = imported(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    broken = {target: reason for target in sorted(targets) if (reason := violation(module, target))}
    assert not broken, f"{module}: {broken}"


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {name.split(".")[0] for name in MODULES if name}
    assert parts <= set().union(*FLOORS), f"no floor: {sorted(parts - set().union(*FLOORS))}"


def test_all_modules_are_checked() -> None:
    assert {"", "cli", "engines.validate", "engines.demo", "models.head", "decomposition.index_set"} <= set(MODULES)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("files", "import decompose_cli.models.head"),
        ("models.head", "from decompose_cli.decomposition.study import Study"),
        ("datasets.folders", "def f():\n    from decompose_cli.decomposition import features"),
        ("models.head", "from decompose_cli.datasets import registry"),
        ("decomposition.study", "if True:\n    import decompose_cli.engines.validate"),
        ("decomposition.study", "from ..engines import validate"),
        ("engines.validate", "from decompose_cli.engines.demo import demo"),
        ("engines.validate", "from . import demo"),
        ("engines.validate", "from .demo import demo"),
        ("engines.validate", "from decompose_cli import console"),
        ("engines.demo", "import decompose_cli.cli"),
        ("console", "from decompose_cli import cli"),
        ("models.weights", "import importlib\nimportlib.import_module('decompose_cli.engines.validate')"),
        ("models.weights", "__import__('decompose_cli.display')"),
        ("", "from decompose_cli import errors"),
    ],
)
def test_forbidden_imports_are_seen(importer: str, source: str) -> None:
    targets = imported(source, importer, is_package=not importer)
    assert any(violation(importer, target) for target in targets), targets


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("cli", "def f():\n    from decompose_cli.engines.validate import validate"),
        ("cli", "from decompose_cli import display"),
        ("__main__", "from decompose_cli.cli import main"),
        ("engines.demo", "from decompose_cli.engines.validate import validate"),
        ("engines.validate", "from decompose_cli.decomposition.study import Study"),
        ("decomposition.study", "from decompose_cli.models.head import find_head"),
        ("decomposition.study", "from . import features"),
        ("models.head", "from ..errors import InputError\nimport torch"),
        ("results", "import decompose_cli\nfrom decompose_cli.files import write_text"),
    ],
)
def test_allowed_imports_are_left_alone(importer: str, source: str) -> None:
    targets = imported(source, importer)
    assert targets
    assert not [target for target in targets if violation(importer, target)]


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or "the package")
def test_module_is_not_too_long(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{module} has {lines} lines; it is asking to be two"


def run_python(code: str) -> str:
    """What a fresh interpreter prints for the code; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["decompose_cli", "decompose_cli.cli", "decompose_cli.models.registry"])
def test_import_is_cheap(module: str) -> None:
    heavy = "torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "safetensors", "matplotlib"
    assert run_python(f"import sys, {module}\nprint(*[m for m in {heavy!r} if m in sys.modules])") == ""


def test_torchvision_can_be_imported_after_the_package() -> None:
    code = """
    import sys
    import decompose_cli
    from decompose_cli import _torchvision
    finders = [f for f in sys.meta_path if type(f).__module__ == _torchvision.__name__]
    assert len(finders) == 1, finders
    import torchvision
    from torchvision import models
    from torchvision.transforms import v2
    import torch
    assert not [f for f in sys.meta_path if f in finders], "the finder has done its work and should be gone"
    print(models.resnet18.__name__, hasattr(torch.ops.torchvision, "nms"))
    """
    assert run_python(code) == "resnet18 True"


# What the compiled library does when it loads: it declares the operators itself. A second declaration would fail.
DECLARED_BY_THE_LIBRARY = """
    import torch
    library = torch.library.Library("torchvision", "FRAGMENT")

    def declare():
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def test_torchvision_finder_declares_nothing_where_the_compiled_library_loads() -> None:
    code = (
        DECLARED_BY_THE_LIBRARY
        + """
    loaded = []

    def load_library(path):
        loaded.append(path)
        declare()

    torch.ops.load_library = load_library
    from pathlib import Path
    real_glob = Path.glob
    Path.glob = lambda self, pattern: iter([self / "_C.so"]) if pattern == "_C*.so" else real_glob(self, pattern)
    from decompose_cli import _torchvision
    _torchvision._declare_missing_operators()
    print([Path(path).name for path in loaded], _torchvision._keep_alive)
    """
    )
    assert run_python(code) == "['_C.so'] []"


def test_torchvision_finder_declares_nothing_where_the_operators_exist_already() -> None:
    code = (
        DECLARED_BY_THE_LIBRARY
        + """
    declare()

    def load_library(path):
        raise OSError("undefined symbol")

    torch.ops.load_library = load_library
    from decompose_cli import _torchvision
    import torchvision
    print(_torchvision._keep_alive)
    """
    )
    assert run_python(code) == "[]"


def test_torchvision_finder_declares_the_operators_where_the_library_does_not_load() -> None:
    code = """
    import torch

    def load_library(path):
        raise OSError("undefined symbol")

    torch.ops.load_library = load_library
    from decompose_cli import _torchvision
    _torchvision._declare_missing_operators()
    print(len(_torchvision._keep_alive), hasattr(torch.ops.torchvision, "nms"), hasattr(torch.ops.torchvision, "qnms"))
    """
    assert run_python(code) == "1 True True"


def test_torchvision_finder_is_installed_once_and_finds_nothing_itself() -> None:
    code = """
    import sys
    from decompose_cli import _torchvision
    _torchvision.install()
    finders = [f for f in sys.meta_path if type(f).__module__ == _torchvision.__name__]
    print(len(finders), finders[0].find_spec("json", None), "torch" in sys.modules)
    sys.modules["torchvision"] = sys
    sys.meta_path.remove(finders[0])
    _torchvision.install()
    print(len([f for f in sys.meta_path if type(f).__module__ == _torchvision.__name__]))
    """
    assert run_python(code).split() == ["1", "None", "False", "0"]
