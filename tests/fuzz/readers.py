"""What reads files: commands, and the small files that they take."""

from __future__ import annotations

from dataclasses import dataclass, field

IN, SEEDS = "../in", "../seeds"
IMAGES = ("--dataset", f"folder:{SEEDS}/images")
SMALL = ("--input-size", "8", "-j", "0")
NET = ("networks:net", "-w", f"{SEEDS}/state.pt", *IMAGES, *SMALL)
HEAD = f"{SEEDS}/sparse/k2/sparse.safetensors"
BESIDE = (f"b={SEEDS}/published.json", "--model", *NET, "--json")
"""What a file is compared with."""
MAPPED = ("networks:net", "-w", f"{SEEDS}/state.pt", *SMALL)


@dataclass(frozen=True)
class Reader:
    """A command that reads a file.

    Attributes:
        name: Of what is read.
        source: Path of the file in the seeds.
        place: Where it comes to lie in the folder of the case.
        arguments: Of the command.
        beside: More files, by path in the folder of the case: paths in the seeds.
        share: How often it is taken, compared to others.
    """

    name: str
    source: str
    place: str
    arguments: tuple[str, ...]
    beside: dict[str, str] = field(default_factory=dict)
    share: float = 1.0


def readers(files: list[str]) -> list[Reader]:
    """All of them; ``files`` are the paths of the files in the seeds."""
    return [
        *_index_files(),
        *_checkpoints(),
        *_features(),
        *_data_sets(files),
        *_images(files),
        *_configurations(),
        *_results(files),
        *_runs(files),
        *_cache(files),
    ]


def _index_files() -> list[Reader]:
    def read(source: str, *arguments: str, share: float = 1.0) -> Reader:
        return Reader("index file", source, "in/indices.json", arguments, share=share)

    file = f"{IN}/indices.json"
    return [
        read("published.json", "mutual-info", "-i", file, share=3),
        read("document.json", "mutual-info", "-i", f"a={file}", share=3),
        read("document.json", "compare", f"a={file}", f"b={SEEDS}/published.json"),
        read("published.json", "validate", *NET, "-i", file, share=2),
        read("document.json", "validate", *NET, "-i", file, "--json", share=2),
        read("document.json", "sweep", *NET, "-i", file, "--ks", "1", "--methods", "weight", "--json", share=0.3),
        read("document.json", "essential", *NET, "-i", file, "--repeats", "1", "--controls", "1", share=0.3),
    ]


def _checkpoints() -> list[Reader]:
    found = []
    for source, more in {
        "last.pt": ("networks:net",),
        "state.pt": ("networks:net",),
        "state.safetensors": ("networks:net",),
        "sparse-net/k2/sparse.safetensors": ("networks:net",),
    }.items():
        file = f"in/{source.rpartition('/')[2]}"
        found += [
            Reader("checkpoint", source, file, ("layers", *more, "-w", f"../{file}", "--input-size", "8"), share=3),
            Reader("checkpoint", source, file, ("layers", "-w", f"../{file}", "--json"), share=1),
            Reader("checkpoint", source, file, ("validate", *more, "-w", f"../{file}", *IMAGES, *SMALL, "--json")),
            Reader("checkpoint", source, file, ("compare", f"a=../{file}", *BESIDE), share=0.5),
        ]
    file = "in/sparse.safetensors"
    arguments = ("validate", "--features", f"{SEEDS}/features.npz", "-w", f"../{file}", "--json")
    return [*found, Reader("checkpoint", "sparse/k2/sparse.safetensors", file, arguments, share=2)]


def _features() -> list[Reader]:
    return [
        Reader("features", name, f"in/{name}", ("validate", "--features", f"{IN}/{name}", "-w", HEAD, *more), share=2)
        for name in ("features.npz", "features.safetensors")
        for more in ((), ("--json",))
    ]


def _data_sets(files: list[str]) -> list[Reader]:
    found = []
    for file in files:
        kind, _, rest = file.partition("/")
        if kind in ("cifar", "cifar-binary"):
            share = 3 if "test" in file else 0.2
            model, name = ("networks:hundred", "cifar100") if "100" in file else ("networks:ten", "cifar10")
            arguments = ("validate", model, "-w", "random", *SMALL, "--dataset", name, "--data-dir", IN)
            found.append(Reader("CIFAR", file, f"in/{rest}", arguments, {"in": kind}, share))
    tables = {"in": "tables", "images": "images"}
    for file, dataset in (
        ("tables/images.csv", f"csv:{IN}/images.csv"),
        ("tables/images.npz", f"npz:{IN}/images.npz"),
        ("tables/shards/set-test-000.tar", f"wds:{IN}/shards/set-{{split}}-{{000..002}}.tar"),
        ("tables/shards/classnames.txt", f"wds:{IN}/shards/set-{{split}}-{{000..002}}.tar"),
    ):
        arguments = ("validate", *MAPPED, "--dataset", dataset)
        place = f"in/{file.removeprefix('tables/')}"
        found.append(Reader("data set", file, place, arguments, tables, 1 if "class" in file else 2))
    for name in ("map.json", "map.csv"):
        arguments = ("validate", *NET, "--class-map", f"{IN}/{name}")
        found.append(Reader("class map", name, f"in/{name}", arguments))
    return found


def _images(files: list[str]) -> list[Reader]:
    found = []
    for file in files:
        if file.startswith("kinds/"):
            name = file.partition("/")[2]
            arguments = ("validate", *MAPPED, "--dataset", f"folder:{IN}/images")
            place = f"in/images/test/cat/{name}"
            found.append(Reader("image", file, place, arguments, {"in/images": "images"}))
    return found


def _configurations() -> list[Reader]:
    return [
        Reader("configuration", source, f"in/{name}", ("validate", *NET, "--config", f"{IN}/{name}", *more))
        for source, name in (
            ("options.json", "options.json"),
            ("options.toml", "options.toml"),
            ("results/validate.json", "result.json"),
        )
        for more in ((), ("--json",))
    ]


_PAINTED = dict.fromkeys(("run/result.json", "tuned/result.json", "sweep/result.json"), 0.1)
"""Results that make charts, which take longer than all else."""


def _results(files: list[str]) -> list[Reader]:
    documents = [file for file in files if file.startswith("results/") or file == "published.result.json"]
    documents += [f"{folder}/result.json" for folder in ("run", "tuned", "sparse", "sparse-net", "sweep", "explain")]
    page = ("-o", "page.html", "--json")
    shown = [
        Reader("result", file, "in/result.json", ("report", f"{IN}/result.json", *page), share=_PAINTED.get(file, 1))
        for file in documents
    ]
    compared = [
        Reader("result", file, "in/result.json", ("compare", f"a={IN}/result.json", *BESIDE), share=0.3)
        for file in documents
        if file.startswith(("results/validate", "published", "tuned", "sparse", "sweep"))
    ]
    return [*shown, *compared]


def _runs(files: list[str]) -> list[Reader]:
    found = []
    for file in files:
        folder, _, name = file.partition("/")
        if folder == "run" and name.endswith((".json", ".csv", ".pt")):
            arguments: tuple[str, ...] = ("report", f"{IN}/run", "-o", "page.html")
            found.append(Reader("run", file, f"in/{file}", arguments, {"in/run": "run"}, 0.1))
        if folder == "stopped":
            resume = ("train", "networks:net", "--resume", "stopped", "-j", "0")
            share = 0.3 if name == "best.pt" else 1
            found.append(
                Reader("run", file, f"work/{file}", resume, {"work/stopped": "stopped", **_DATA_OF_RUN}, share)
            )
    return found


_DATA_OF_RUN = {"work/images": "images"}


def _cache(files: list[str]) -> list[Reader]:
    entries = [file for file in files if file.startswith("cache/") and "fingerprints" not in file]
    marks = [file for file in files if file.startswith("cache/fingerprints")]
    return [
        Reader("cache", file, file, arguments, {"cache": "cache"}, share / len(files_of))
        for files_of, share in ((entries, 3.0), (marks, 1.0))
        for file in files_of
        for arguments in (("validate", *NET), ("cache",))
    ]
