"""Build the documentation as a site in ``build/site``: ``make site``.

The pages are laid out as in the project, so that their links lead to the same places; a link that leads nowhere fails
the build. Their order is that of the table in ``README.md`` here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BUILD = ROOT / "build"
PAGES, SITE = BUILD / "pages", BUILD / "site"
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE")
"""Files of the project that pages lead to, beside folders with a README."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+\.md)(?:#[^)]*)?\)")


def sources() -> list[Path]:
    """The files of the site, relative to the project."""
    found = [Path(name) for name in BESIDE]
    found += [path.relative_to(ROOT) for path in sorted(ROOT.glob("*/README.md")) if path.parent.name != "build"]
    found += [path.relative_to(ROOT) for path in sorted(DOCS.rglob("*")) if path.suffix in (".md", ".png", ".svg")]
    linked = {
        (ROOT / page.parent / target.split("#")[0]).resolve()
        for page in found
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("#")
    }
    found += [path.relative_to(ROOT) for path in sorted(linked) if path.is_file() and path.is_relative_to(ROOT)]
    return list(dict.fromkeys(found))


def navigation() -> list[dict[str, Any]]:
    """The pages in the order of the table in ``docs/README.md``, under what its rows say they are for."""
    shown: list[dict[str, Any]] = [{"decompose": "README.md"}, {"Documentation": "docs/README.md"}]
    seen = {"README.md", "docs/README.md"}
    for row in (DOCS / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != 2:
            continue
        pages = []
        for title, target in LINK.findall(cells[1]):
            path = (DOCS / target).resolve().relative_to(ROOT).as_posix()
            if path not in seen:
                seen.add(path)
                pages.append({title.replace("`", "").removesuffix(".md"): path})
        if pages:
            what = cells[0].replace("`", "")
            shown.append({what[:1].upper() + what[1:]: pages})
    rest = [path.as_posix() for path in sources() if path.suffix == ".md" and path.as_posix() not in seen]
    shown.append({"The project": [{Path(path).parent.name or Path(path).stem.capitalize(): path} for path in rest]})
    return shown


def main() -> int:
    """Lay the pages out and build the site; the exit code is mkdocs's."""
    for folder in (PAGES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    for path in sources():
        (PAGES / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, PAGES / path)
    settings = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(PAGES), "site_dir": str(SITE)}
    file = BUILD / "mkdocs.yml"  # which may be JSON
    file.write_text(json.dumps({**settings, "nav": navigation()}), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--config-file", str(file)]
    return subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
