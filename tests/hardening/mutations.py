"""Damage to a folder of JSON and weights, as a disk, an editor or a stranger does it; the same by a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FAR = "@far@"  # written as a number of 5,000 digits
_DEEP = "@deep@"  # written as a thousand lists in one another
_ODD = (
    *(None, True, False, 0, -1, 7, 1.5, 10**18, 10**400, float("inf"), float("nan"), _FAR, _DEEP),
    *("", "x", "soon", "\ud800", "\x00", "<b>", "../../etc", "9" * 300, [], {}, [1], ["x"], {"a": 1}, [[]], [None]),
)


def damage(folder: Path, files: list[str], seed: int) -> str:
    """Change one of a folder's files, by a seed; says how."""
    chance = random.Random(seed)
    path = folder / chance.choice([f for f in files if (folder / f).is_file()])
    kind = chance.random()
    if path.suffix not in (".json", ".jsonl") or kind < 0.15:
        words = _damage_bytes(path, chance)
    elif path.suffix == ".jsonl":
        words = _damage_lines(path, chance)
    else:
        value, words = _damaged(json.loads(path.read_text()), chance)
        path.write_text(_written(value))
    return f"seed {seed}, {path.relative_to(folder)}: {words}"


def _damage_bytes(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    how = chance.choice(["cut", "emptied", "flipped", "random", "removed", "not UTF-8", "nested", "a folder"])
    if how == "removed":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        if how == "flipped":
            for _ in range(chance.randint(1, 8)):
                if content:
                    content[chance.randrange(len(content))] = chance.randrange(256)
        made = {
            "cut": bytes(content[: chance.randrange(max(1, len(content)))]),
            "emptied": b"",
            "flipped": bytes(content),
            "random": chance.randbytes(200),
            "not UTF-8": b"\xff\xfe" + bytes(content),
            "nested": b"[" * 5000 + b"]" * 5000,
        }
        path.write_bytes(made[how])
    return how


def _damage_lines(path: Path, chance: random.Random) -> str:
    lines = path.read_text().splitlines()
    number = chance.randrange(len(lines))
    value, words = _damaged(json.loads(lines[number]), chance)
    lines[number] = _written(value)
    path.write_text("\n".join(lines) + "\n")
    return f"line {number + 1}: {words}"


def _damaged(value: Any, chance: random.Random) -> tuple[Any, str]:
    """JSON with one or two of its places changed."""
    value, words = copy.deepcopy(value), []
    for _ in range(chance.choice([1, 1, 2])):
        places = list(_places(value))
        if not places:
            return chance.choice(_ODD), "replaced whole"
        holder, key, where = chance.choice(places)
        how = chance.choice(["odd", "odd", "odd", "odd", "removed", "renamed", "doubled"])
        if how == "odd":
            holder[key] = chance.choice(_ODD)
        elif how == "removed":
            del holder[key]
        elif isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key) if how == "renamed" else copy.deepcopy(holder[key])
        else:
            holder.append(copy.deepcopy(holder[key]))
        words.append(f"{where} {how} {str(holder.get(key))[:60] if isinstance(holder, dict) else ''}")
    return value, "; ".join(words)


def _places(value: Any, where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every place in JSON: what holds it, its key, and its path in words; of long lists the first few."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, one in entries:
        yield value, key, f"{where}.{key}"
        yield from _places(one, f"{where}.{key}")


def _written(value: Any) -> str:
    text = json.dumps(value)
    text = text.replace("Infinity", "1e999").replace(f'"{_FAR}"', "9" * 5000)
    return text.replace(f'"{_DEEP}"', "[" * 1000 + "]" * 1000)
