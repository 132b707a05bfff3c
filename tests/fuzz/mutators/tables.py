"""Tables of text, cell by cell."""

from __future__ import annotations

import csv
import io
from random import Random

from fuzz.mutators.raw import bits, some_bytes
from fuzz.mutators.values import TEXTS


def table(random: Random, content: bytes) -> bytes:
    """Cells, rows, columns and separators of a CSV file are changed, then perhaps its bytes."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    separator, quoting = ",", csv.QUOTE_MINIMAL
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(rows))
        row = rows[at]
        kind = random.randrange(10)
        if kind in (0, 1, 2) and row:
            row[random.randrange(len(row))] = random.choice(TEXTS)
        elif kind == 3:
            rows.append(list(random.choice(rows)))
        elif kind == 4 and len(rows) > 1:
            del rows[at]
        elif kind == 5:
            row.extend(random.choice((["x"], [""] * 1000, ["1", "2"])))
        elif kind == 6 and row:
            row.pop()
        elif kind == 7:
            rows[:] = [one[::-1] for one in rows]
        elif kind == 8:
            separator = random.choice((";", "\t", "|", " "))
        else:
            quoting = csv.QUOTE_ALL
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, quoting=quoting).writerows(rows)
    raw = buffer.getvalue().encode("utf-8", "surrogatepass")
    kind = random.randrange(12)
    if kind == 0:
        return raw.decode("utf-8", "replace").encode("utf-16")
    if kind == 1:
        return b"\xef\xbb\xbf" + raw
    if kind == 2:
        return raw.replace(b"\r\n", b"\r")
    if kind == 3:
        return raw + b'"open\n' * 100
    return random.choice((bits, some_bytes))(random, raw) if kind == 4 else raw
