"""The shape of the package: who imports whom, how long modules get, and what an import costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import decompose_cli

PACKAGE = Path(decompose_cli.__file__).parent
ROOT = "decompose_cli"
LONGEST_MODULE = 400

READING_ORDER = (
    "ground",
    "storage",
    "processes",
    "norms",
    "reporting",
    "models",
    "datasets",
    "features",
    "sparse",
    "decomposition",
    "training",
    "engines",
    "page",
    "api",
    "cli",
)
"""A folder imports only folders above it. The ground are the modules beside the folders, which know no folder."""
GROUND = {"_torchvision", "errors", "extras", "messages", "preprocessing", "printable", "statistics", "version"}
DOORS = {"", "__main__"}
"""What ``import decompose_cli`` and ``python -m decompose_cli`` run; nothing in the package imports them."""
MAY_IMPORT_ENGINES = {"engines.demo", "engines.catalogue"}

Graph = Mapping[str, set[str]]


def module_names() -> dict[str, Path]:
    """Dotted name below the package of every module; the package itself is ''."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = module_names()


def only_for_types(tree: ast.AST) -> set[int]:
    """Identities of the parts that stand under ``if TYPE_CHECKING``."""
    return {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inside in ast.walk(statement)
    }


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Dotted names below the package that a module imports, at its top or in a function; '' is the package.

    ``from package import name`` names the module of that name where there is one, else the package's own file. Only
    what stands under ``if TYPE_CHECKING`` is left out.
    """
    tree = ast.parse(source)
    for_types = only_for_types(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}".removeprefix(f"{ROOT}.") in MODULES else base
                for alias in node.names
            ]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = re.findall(rf"^({ROOT}[.\w]+):\w+$", node.value)  # what a table names to be imported later
        found |= {name.removeprefix(ROOT).lstrip(".") for name in names if name.split(".")[0] == ROOT}
    return found


def called(node: ast.Call) -> str | None:
    """The last part of the name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = [ROOT, *module.split(".")] if module else [ROOT]
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


@cache
def imports_of_the_package() -> dict[str, set[str]]:
    return {
        name: imported(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")
        for name, path in MODULES.items()
    }


def place_of(module: str) -> int:
    """Where a module stands in the reading order."""
    part = module.split(".")[0]
    return READING_ORDER.index("ground" if part in GROUND else part)


def violation(importer: str, target: str) -> str | None:
    """Why ``importer`` may not import ``target``; None if it may."""
    if target in DOORS:
        return "nothing in the package imports its doors"
    if importer in DOORS:
        known = {"": {"_torchvision", "version", "api"}, "__main__": {"cli"}}[importer]
        return None if target in known else "a door opens on one room"
    if importer == target or place_of(target) < place_of(importer):
        return None
    if place_of(target) > place_of(importer):
        return "imports go up the reading order"
    if importer.startswith("engines.") and target.startswith("engines."):
        return None if importer in MAY_IMPORT_ENGINES else "engines do not import each other"
    return None


def circles(graph: Graph) -> list[set[str]]:
    """The largest sets of modules each of which leads to all others of it: strongly connected components, by Tarjan."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        open_.append(module)
        for target in graph.get(module, ()):
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in open_:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            cut = open_.index(module)
            component = set(open_[cut:])
            del open_[cut:]
            if len(component) > 1 or module in graph.get(module, ()):
                found.append(component)

    for module in graph:
        if module not in number:
            visit(module)
    return found


def test_imports_go_down_the_reading_order() -> None:
    broken = [
        f"{module} imports {target}: {reason}"
        for module, targets in imports_of_the_package().items()
        for target in sorted(targets)
        if (reason := violation(module, target))
    ]
    assert not broken, "\n".join(broken)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(imports_of_the_package()) == []


def test_every_part_of_the_package_has_a_place() -> None:
    parts = {name.split(".")[0] for name in MODULES} - DOORS
    assert parts == {*READING_ORDER, *GROUND} - {"ground"}


def test_folders_of_tests_do_not_stand_for_packages_of_others() -> None:
    """Such as `sparse` and `datasets`, which libraries use where they are installed."""
    for folder in filter(Path.is_dir, Path(__file__).parent.iterdir()):
        found = find_spec(folder.name)
        places = found.submodule_search_locations if found is not None else None
        assert folder.name in ("helpers", "fuzz") or str(folder) not in (places or ())


def test_all_modules_are_checked() -> None:
    assert {"", "cli.app", "engines.validate", "engines.demo", "models.head", "training.gating.settings"} <= set(
        MODULES
    )
    assert len(MODULES) > 150
    imports = imports_of_the_package()
    assert imports.keys() == MODULES.keys()
    assert "models.head" in imports["features.extraction"] | imports["models.classifier"]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("storage.files", "import decompose_cli.models.head"),
        ("errors", "from decompose_cli.storage import files"),
        ("errors", "def f():\n    from decompose_cli.storage.files import write_text"),
        ("models.head", "from decompose_cli.features.study import Study"),
        ("models.head", "from decompose_cli.datasets import registry"),
        ("features.study", "from decompose_cli.decomposition.index_set import IndexSet"),
        ("decomposition.heads", "if True:\n    import decompose_cli.engines.validate"),
        ("features.study", "from ..engines import validate"),
        ("engines.validate", "from decompose_cli.engines.demo import demo"),
        ("engines.validate", "from . import demo"),
        ("engines.validate", "from .demo import demo"),
        ("engines.validate", "from decompose_cli.cli import console"),
        ("engines.demo", "import decompose_cli.cli"),
        ("models.weights", "import importlib\nimportlib.import_module('decompose_cli.engines.validate')"),
        ("models.weights", "__import__('decompose_cli.page.report')"),
        ("storage.result_document", "import decompose_cli"),
        ("", "from decompose_cli import errors"),
        ("__main__", "from decompose_cli.engines.demo import demo"),
    ],
)
def test_forbidden_imports_are_seen(importer: str, source: str) -> None:
    targets = imported(source, importer, is_package=not importer)
    assert any(violation(importer, target) for target in targets), targets


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("cli.commands.validate", "def f():\n    from decompose_cli.engines.validate import validate"),
        ("cli.app", "from decompose_cli.cli import console"),
        ("__main__", "from decompose_cli.cli import main"),
        ("engines.demo", "from decompose_cli.engines.validate import validate"),
        ("engines.validate", "from decompose_cli.features.study import Study"),
        ("features.study", "from decompose_cli.models.head import find_head"),
        ("decomposition.heads", "from . import index_set"),
        ("models.head", "from ..errors import InputError\nimport torch"),
        ("storage.result_document", "from decompose_cli.version import __version__"),
    ],
)
def test_allowed_imports_are_left_alone(importer: str, source: str) -> None:
    targets = imported(source, importer)
    assert targets
    assert not [target for target in targets if violation(importer, target)]


def test_imports_for_types_alone_do_not_count() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from decompose_cli.cli.app import app\n"
    assert imported(source, "errors") == set()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}, [{"a", "b", "c"}]),
        ({"a": {"a"}}, [{"a"}]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}}, [{"c", "d"}, {"a", "b"}]),
    ],
)
def test_circles_are_seen(graph: dict[str, set[str]], expected: list[set[str]]) -> None:
    assert circles(graph) == expected


def test_no_module_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE}
    assert not long, "these are asking to be two"
    assert max(lengths.values()) > LONGEST_MODULE / 2, "lines are counted"


# ---------------------------------------------------------------------------------------------- what an import does


def run_python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints for the code; it must succeed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_cheap() -> None:
    heavy = "torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "safetensors", "matplotlib"
    found = run_python(f"""
    import importlib, sys
    for module in ("decompose_cli", "decompose_cli.cli.app", "decompose_cli.models.registry"):
        importlib.import_module(module)
        print(module, *[name for name in {heavy!r} if name in sys.modules])
    """)
    assert found.split("\n") == ["decompose_cli", "decompose_cli.cli.app", "decompose_cli.models.registry"]


@pytest.mark.parametrize("module", MODULES)
def test_packages_of_extras_are_imported_inside_functions_only(module: str) -> None:
    """So that they load where they are named, and are missed nowhere else."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    later = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for part in ast.walk(node)}
    later |= only_for_types(tree)
    first = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in later
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not first & {"timm", "transformers", "huggingface_hub", "datasets", "pyarrow", "onnx", "onnxruntime"}


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


# What the compiled library does when it loads: it declares the operators itself. A second declaration would fail.
DECLARED_BY_THE_LIBRARY = """
    library = torch.library.Library("torchvision", "FRAGMENT")

    def declare():
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
WITHOUT_THE_LIBRARY = """
    def load_library(path):
        raise OSError("undefined symbol")

    torch.ops.load_library = load_library
    from decompose_cli import _torchvision
"""
TORCHVISION: dict[str, tuple[str, str]] = {
    "it can be imported after the package, and the finder goes": (
        """
    import decompose_cli
    from decompose_cli import _torchvision
    finders = [f for f in sys.meta_path if type(f).__module__ == _torchvision.__name__]
    assert len(finders) == 1, finders
    import torchvision
    from torchvision import models
    from torchvision.transforms import v2
    assert not [f for f in sys.meta_path if f in finders], "the finder has done its work and should be gone"
    print(models.resnet18.__name__, hasattr(torch.ops.torchvision, "nms"))
        """,
        "resnet18 True",
    ),
    "nothing is declared where the compiled library loads": (
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
        """,
        "['_C.so'] []",
    ),
    "nothing is declared where the operators exist already": (
        DECLARED_BY_THE_LIBRARY
        + "\n    declare()\n"
        + WITHOUT_THE_LIBRARY
        + """
    import torchvision
    print(_torchvision._keep_alive)
        """,
        "[]",
    ),
    "operators are declared where the library does not load": (
        WITHOUT_THE_LIBRARY
        + """
    _torchvision._declare_missing_operators()
    print(len(_torchvision._keep_alive), *(hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms")))
        """,
        "1 True True",
    ),
}


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What each of these programs prints, each in a copy of a process that has imported torch and nothing else."""
    code = """
    import json, os, sys, traceback
    import torch
    found = {}
    for name, code in json.loads(sys.argv[1]).items():
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.dup2(writing, 1)
            try:
                exec(code, {"torch": torch, "sys": sys})
            except BaseException:
                print(traceback.format_exc())
            sys.stdout.flush()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found[name] = pipe.read().strip()
        os.waitpid(child, 0)
    print(json.dumps(found))
    """
    programs = {name: textwrap.dedent(code) for name, (code, _) in TORCHVISION.items()}
    printed: dict[str, str] = json.loads(run_python(code, json.dumps(programs)))
    return printed


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_and_its_operators(printed: dict[str, str], name: str) -> None:
    assert printed[name] == TORCHVISION[name][1]
