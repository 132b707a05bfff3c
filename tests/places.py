"""Run the examples of README.md and docs/ in places where commands have it hard, and compare with an ordinary one.

    python tests/places.py [--seconds 60] [--only validate]                             what 'make places' runs

- ``container``: no HOME, a home that cannot be written, 64 MB of shared memory, the C locale, no terminal, one core
  (needs root, for the mounts),
- ``odd path``: a folder whose name has blanks, an umlaut, and bytes that are no UTF-8,
- ``read-only``: a folder without write permission, for a user without privileges.

An example is a command that is indented as code or stands in ``<!-- run: ... -->``; trainings take one epoch. Most of
those with data sets that are not on the machine fail everywhere, with a sentence. An example fails in a place where it
ends otherwise than in an ordinary one, with a traceback, or with anything unforeseen; in a folder without write
permission it may say so. One that takes longer than ``--seconds`` is ended, and counts as long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests")]
PLACES = ("ordinary", "container", "odd path", "read-only")
CONTAINER = """
mount -t tmpfs -o size=64m tmpfs /dev/shm && mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" || exit 77
unset HOME USER LOGNAME XDG_CACHE_HOME DECOMPOSE_CACHE COLUMNS LANG LC_CTYPE
exec env LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 TERM=dumb "$@" < /dev/null
"""
Ended = tuple[int, str]


def examples() -> list[str]:
    """The commands of all pages, without the name of the program, each once."""
    import update

    found: dict[str, None] = {}
    for page in [ROOT / "README.md", *update.pages()]:
        text = page.read_text(encoding="utf-8")
        found |= dict.fromkeys(match["command"] for match in update.BLOCK.finditer(text))
        lines = re.findall(r"^ {4}decompose ([a-z][^\n]*)", text.replace("\\\n", " "), flags=re.MULTILINE)
        found |= dict.fromkeys(" ".join(line.split("  #")[0].split()) for line in lines)
    return [re.sub(r"--epochs \d+", "--epochs 1", example).removesuffix(" --open") for example in found]


def prepared(folder: Path) -> None:
    """Put what the examples work on into a folder."""
    import update

    update.write_digits(folder)
    page = (ROOT / "docs" / "own-networks.md").read_text(encoding="utf-8")
    (module,) = re.findall(r"^ {4}# mynet\.py\n(.*?)\n\n(?=\S)", page, flags=re.MULTILINE | re.DOTALL)
    (folder / "mynet.py").write_text(re.sub(r"^ {4}", "", module, flags=re.MULTILINE), encoding="utf-8")
    for command in update.SETUP:
        update.run(command, folder)
    shutil.rmtree(folder / ".cache")


def ended(example: str, folder: Path, place: str, seconds: float) -> Ended:
    """Run an example in a copy of this process, which has imported everything."""
    with tempfile.TemporaryFile() as said:
        process = os.fork()
        if process == 0:
            _run(example, folder, place, said.fileno())
        limit = time.monotonic() + seconds
        while (status := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > limit:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return -signal.SIGKILL, ""
            time.sleep(0.02)
        said.seek(0)
        return os.waitstatus_to_exitcode(status[1]), said.read().decode(errors="replace")


def _run(example: str, folder: Path, place: str, said: int) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(said, number)
        if place == "read-only":
            from helpers.rights import no_privileges

            kept = no_privileges()  # to the end of this process
            kept.__enter__()
        if place == "container":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from decompose_cli.cli.app import main

        sys.argv = ["decompose", *shlex.split(example)]
        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def inside(place: str, folder: Path, chosen: list[str], seconds: float) -> dict[str, Ended]:
    """What becomes of all examples in a place, one after another, as some go on with what others wrote."""
    import torch

    import decompose_cli.cli.app
    import decompose_cli.engines.explain
    import decompose_cli.engines.finetune
    import decompose_cli.page.report  # noqa: F401

    torch.set_num_threads(1)
    os.environ["DECOMPOSE_DATA"] = str(folder.parent / "data")
    if place != "container":
        os.environ["DECOMPOSE_CACHE"] = str(folder.parent / "cache")
    if place == "odd path":
        folder = folder.rename(folder.parent / ODD)
    if place == "read-only":
        folder.chmod(0o555)
    return {example: ended(example, folder, place, seconds) for example in chosen}


ODD = "a place für " + os.fsdecode(b"\xff")


def everywhere(root: Path, seconds: float) -> dict[str, dict[str, Ended]]:
    """The outcomes by place; a place that cannot be made is left out."""
    found = {}
    for place in PLACES:
        folder = root / place / "files"
        shutil.copytree(root / "files", folder)
        said = root / "outcomes.json"
        command = [sys.executable, __file__, "--inside", place, str(folder), str(said), "--seconds", str(seconds)]
        if place == "container":
            command = ["unshare", "-m", "sh", "-c", CONTAINER, "sh", *command]
        done = subprocess.run(command, check=False)
        if place == "container" and done.returncode in (1, 77) and not said.exists():
            print("container: skipped, as only root may make one")
            continue
        assert done.returncode == 0, place
        found[place] = {example: tuple(ended) for example, ended in json.loads(said.read_text()).items()}
        said.unlink()
    return found


def judged(usual: Ended, now: Ended, place: str, *, after_long: bool) -> str:
    """How an example ended in a place, beside how it ended in an ordinary one, perhaps after one that took too long."""
    code, said = now
    if code == -signal.SIGKILL:
        return "long"
    if code not in (0, 1, 2) or "Traceback" in said or "unforeseen" in said:
        return "FAILED"
    if code == usual[0] or usual[0] == -signal.SIGKILL:
        return "as usual" if code == 0 else "refused, as usual"
    if after_long and re.search(r"does not exist|exists already|holds (a|the) run", said + usual[1]):
        return "without what a long one writes"
    return "cannot write" if place == "read-only" and code == 2 and "ermission denied" in said else "FAILED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", default="", help="examples that have this in them")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        place, folder, said = asked.inside
        chosen: list[str] = json.loads(Path(folder, "examples.json").read_text())
        Path(said).write_text(json.dumps(inside(place, Path(folder), chosen, asked.seconds)))
        return 0
    root = Path(tempfile.mkdtemp(prefix="decompose-places-"))
    chosen = [example for example in examples() if asked.only in example]
    failures: list[tuple[str, str, int, str]] = []
    try:
        (root / "files").mkdir()
        prepared(root / "files")
        (root / "files" / "examples.json").write_text(json.dumps(chosen))
        found = everywhere(root, asked.seconds)
        usual_kinds: dict[str, str] = {}
        for place, outcomes in found.items():
            kinds = {}
            for example, now in outcomes.items():
                both = (*kinds.values(), *usual_kinds.values())
                kinds[example] = judged(found["ordinary"][example], now, place, after_long="long" in both)
            usual_kinds = usual_kinds or kinds
            failures += [(place, example, *outcomes[example]) for example, kind in kinds.items() if kind == "FAILED"]
            print(f"{place}: " + ", ".join(f"{count} {kind}" for kind, count in Counter(kinds.values()).most_common()))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for place, example, code, said in failures:
        print(f"{place}: decompose {example}: exit code {code}\n{said[-600:]}\n")
    print(f"{len(chosen)} examples, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
