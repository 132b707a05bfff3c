"""Commands whose options may also come from variables of the environment and from a configuration.

What is typed beats a variable, and a variable beats the configuration.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from decompose_cli.cli.configuration import must_be_typed, read_configuration
from decompose_cli.storage.files import user_path

CONFIGURATION = "decompose.configuration"
"""What the parser's context calls the path of the configuration."""
_LEFT_OUT = "decompose.left_out"
_SAME_THING = (
    {"device", "gpu"},
    {"ema", "weights_key"},
    {"epochs", "iterations", "scale_epochs"},
    {"init", "scratch"},
    {"images", "indices_of", "worst"},
)
"""Options of which one excludes the others: what is typed beats them all, not only the option of its name."""
_BESIDE_RESUME = {"device", "devices", "num_nodes", "workers", "threads", "no_download", "quiet", "debug"}
"""What a variable says of a run that goes on; the run remembers all else."""
_VARIABLE, _FILE, _USUAL = "ENVIRONMENT", "DEFAULT_MAP", "DEFAULT"
"""Where a value is from, as the parser calls it; anything else is typed."""


class ConfiguredCommand(TyperCommand):
    """A command that takes ``--config``, if it has that option, and variables of the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed, beside what the configuration gives and the environment says."""
        path = None if ctx.resilient_parsing else self._configuration(ctx, args)
        if path is not None:
            ctx.default_map = read_configuration(path, str(ctx.info_name), self.params)
            ctx.meta[CONFIGURATION] = path
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            self._settle(ctx, path)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; its result document says what was not typed."""
        found = {
            "variables": {
                str(option.envvar): os.environ[str(option.envvar)]
                for option in self.params
                if option.envvar is not None
                and self._source(ctx, option) == _VARIABLE
                and option.name not in ctx.meta.get(_LEFT_OUT, ())
            },
            "configuration": str(ctx.meta.get(CONFIGURATION) or ""),
        }
        given = {name: value for name, value in found.items() if value}
        if not given:
            return super().invoke(ctx)
        from decompose_cli.storage.result_document import beside_the_command_line

        with beside_the_command_line(given):
            return super().invoke(ctx)

    def _configuration(self, ctx: Any, args: list[str]) -> Path | None:
        """The file that ``--config`` names; None without one, or where help is asked for."""
        if not any(option.name == "config" for option in self.params):
            return None
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        text = typed.get("config")
        if not isinstance(text, str) or not text.strip() or typed.get("help"):
            return None
        return user_path(text)

    @staticmethod
    def _source(ctx: Any, option: Any) -> str:
        source = ctx.get_parameter_source(option.name)
        return _USUAL if source is None else str(source.name)

    def _settle(self, ctx: Any, path: Path | None) -> None:
        """Leave out what something stronger excludes, and refuse what has to be typed."""
        rank = {_USUAL: 0, _FILE: 1, _VARIABLE: 2}
        options = {option.name: option for option in self.params}
        strength = {name: rank.get(self._source(ctx, option), 3) for name, option in options.items()}

        def leave_out(name: str) -> None:
            (ctx.default_map or {}).pop(name, None)
            ctx.params[name] = options[name].process_value(ctx, options[name].get_default(ctx))
            strength[name] = rank[_USUAL]
            ctx.meta.setdefault(_LEFT_OUT, set()).add(name)

        for group in _SAME_THING:
            given = {name: strength[name] for name in group & options.keys() if strength[name] > 0}
            for name, value in given.items():
                if value < max(given.values()):
                    leave_out(name)
        if ctx.params.get("resume") is not None:
            for name, value in list(strength.items()):
                if value == rank[_VARIABLE] and name not in _BESIDE_RESUME:
                    leave_out(name)
        for name, value in strength.items():
            if path is not None and value == rank[_FILE]:
                must_be_typed(ctx.default_map[name], options[name], path)
