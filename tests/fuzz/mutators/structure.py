"""The structure of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.mutators.values import any_value

_Place = tuple[Any, Any]
"""A list or mapping, and a number or name in it."""


def structure(random: Random, content: bytes) -> bytes:
    """A few values of a JSON text are changed, then perhaps the text of it."""
    value = json.loads(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = changed(random, value)
    return odd_text(random, as_json(value))


def as_json(value: Any) -> bytes:
    """Also of NaN, and of halves of letters."""
    return json.dumps(value, ensure_ascii=True, indent=1).encode("ascii")


def changed(random: Random, value: Any) -> Any:
    """One place of a value is changed, or all of it."""
    places = list(_places(value))
    if not places or random.random() < 0.03:
        return any_value(random)
    whole, key = random.choice(places)
    random.choice(_CHANGES)(random, whole, key)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(item)


def _replace(random: Random, whole: Any, key: Any) -> None:
    whole[key] = any_value(random)


def _remove(_: Random, whole: Any, key: Any) -> None:
    del whole[key]


def _wrap(random: Random, whole: Any, key: Any) -> None:
    value = whole[key]
    whole[key] = random.choice(([value], {"a": value}, [value, value], str(value), [[value]]))


def _nudge(random: Random, whole: Any, key: Any) -> None:
    value = whole[key]
    if isinstance(value, bool):
        whole[key] = not value
    elif isinstance(value, int | float) and abs(value) < 1e300:
        whole[key] = random.choice((value + 1, value - 1, -value, value * 1000, float(value), value + 0.5, str(value)))
    elif isinstance(value, str):
        whole[key] = random.choice((value + "x", value[:-1], value.upper(), value * 2, f"{value}\0", f"\x1b[2J{value}"))
    elif isinstance(value, list):
        whole[key] = random.choice((value[:-1], value * 2, value[::-1], value + value[:1], []))
    else:
        whole[key] = random.choice(([], {}, None, list(value) if isinstance(value, dict) else 0))


def _swap(random: Random, whole: Any, key: Any) -> None:
    other = random.choice(list(whole) if isinstance(whole, dict) else range(len(whole)))
    whole[key], whole[other] = whole[other], whole[key]


def _add(random: Random, whole: Any, key: Any) -> None:
    if isinstance(whole, dict):
        whole[str(any_value(random, 0))[:200]] = whole[key]
    else:
        whole.insert(key, any_value(random))


def _rename(random: Random, whole: Any, key: Any) -> None:
    if isinstance(whole, dict):
        whole[f"{key}{random.choice(('x', ' ', chr(0), '0', chr(0xD800)))}"] = whole.pop(key)
    else:
        whole[key] = None


_CHANGES: tuple[Callable[[Random, Any, Any], None], ...] = (
    _replace,
    _replace,
    _remove,
    _wrap,
    _nudge,
    _nudge,
    _swap,
    _add,
    _rename,
)


def odd_text(random: Random, text: bytes) -> bytes:
    """Sometimes: one key twice, deep nests, long numbers, other encodings, text behind the end."""
    kind = random.randrange(30)
    if kind == 0:
        return b"[" * random.choice((100, 5_000, 100_000))
    if kind == 1:
        deep = random.choice((500, 5_000, 50_000))
        return b'{"a":' * deep + text + b"}" * deep
    if kind == 2:
        return text.replace(b":", b": " + b"9" * random.choice((20, 400, 5_000)) + b", " + b'"a":', 1)
    if kind == 3 and text.startswith(b"{"):
        return b'{"a": 1, "a": 2,' * 1 + b'"classes": [], "b": 3, ' * random.choice((1, 1000)) + text[1:]
    if kind == 4:
        return b"\xef\xbb\xbf" + text
    if kind == 5:
        return text.decode("ascii").encode("utf-16")
    if kind == 6:
        return text + text
    if kind == 7:
        return text.replace(b"0", b"NaN", 1)
    if kind == 8:
        return text.replace(b"1", b"1e999", 1)
    if kind == 9:
        return b" " * 1_000_000 + text
    return text
