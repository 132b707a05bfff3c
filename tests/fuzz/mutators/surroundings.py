"""Variables of the environment."""

from __future__ import annotations

from random import Random

from fuzz.mutators.values import TEXTS

_NUMBERS = ("", "0", "-1", "text", "1.5", "nan", "99999999999999999999", " 1 ", "1", "\u0661", "0x1")
_PLACES = (
    "",
    "relative",
    "~",
    "~nobody/x",
    "/dev/null",
    "/proc/self/x",
    "x" * 300,
    "x/" * 3000,
    "a\nb",
    "\udcff",
    "./in/a",
)
_VARIABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("COLUMNS", "LINES", "OMP_NUM_THREADS", "TORCH_NUM_THREADS", "RICH_COLUMNS"), _NUMBERS),
    **dict.fromkeys(("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "GROUP_RANK"), _NUMBERS),
    **dict.fromkeys(("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NNODES", "SLURM_JOB_ID"), _NUMBERS),
    **dict.fromkeys(("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_TASKS_PER_NODE"), _NUMBERS),
    **dict.fromkeys(("DECOMPOSE_CACHE", "DECOMPOSE_DATA", "XDG_CACHE_HOME", "HOME", "TMPDIR"), _PLACES),
    **dict.fromkeys(("MPLCONFIGDIR", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CONFIG_HOME"), _PLACES),
    **dict.fromkeys(("DECOMPOSE_BATCH_SIZE", "DECOMPOSE_SEED", "DECOMPOSE_INPUT_SIZE", "DECOMPOSE_NO_CACHE"), _NUMBERS),
    **dict.fromkeys(("DECOMPOSE_CLASS_MAP", "DECOMPOSE_DEVICE", "DECOMPOSE_SPLIT", "DECOMPOSE_HEAD"), _PLACES),
    "MASTER_ADDR": ("", "no such host", "127.0.0.1"),
    "TERM": ("", "dumb", "xterm-256color", "unknown", "\x1b[2J"),
    "NO_COLOR": ("", "1"),
    "FORCE_COLOR": ("", "1"),
    "CUDA_VISIBLE_DEVICES": ("", "-1", "7", "text"),
    "LANG": ("C", "POSIX", "de_DE.UTF-8", "xx", ""),
    "LC_ALL": ("C", "POSIX", "xx"),
    "PYTHONIOENCODING": ("ascii", "latin-1", "utf-16", "cp1252"),
    "TZ": ("", "Europe/Berlin", "x" * 500, "UTC+99"),
    "MPLBACKEND": ("", "TkAgg", "text", "pdf"),
    "BROWSER": ("", "false", "no such program"),
    "HF_ENDPOINT": ("", "http://[", "text"),
    "HTTPS_PROXY": ("", "text", "http://[", "socks5://127.0.0.1:9"),
    "SOURCE_DATE_EPOCH": ("", "text", "-1", "99999999999999"),
}
_LAUNCHED: tuple[dict[str, str], ...] = (
    {
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"),
        **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), "0"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    },
    {
        **dict.fromkeys(("SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_ID", "SLURM_TASKS_PER_NODE"), "1"),
        **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID"), "0"),
    },
)
"""What torchrun and SLURM set for a command of one process."""
_NEEDED = ("HOME", "PATH", "LANG", "TMPDIR", "USER", "LOGNAME", "DECOMPOSE_CACHE", "DECOMPOSE_DATA")


def surroundings(random: Random) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables that are set, and such as are not there."""
    launched = random.choice((*_LAUNCHED, {}, {}, {}))
    names = random.sample(list(launched or _VARIABLES), random.choice((1, 1, 2, 3, 5)))
    changed = {**launched, **{name: random.choice(_VARIABLES[name]) for name in names}}
    if random.random() < 0.1 and (name := random.choice(names)) != "PYTHONIOENCODING":
        changed[name] = random.choice([text for text in TEXTS if "\0" not in text and "\ud800" not in text])
    unset = tuple(name for name in _NEEDED if name not in changed and random.random() < 0.05)
    return changed, unset
