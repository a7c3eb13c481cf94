"""What every benchmark shares: its arguments, timing side by side, the table, and the file behind `--json`.

The file is `{"ratios": {name: number}, "rows": [...], "machine": {...}}`. A ratio above 1 means faster than
what it is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cce.checkpoints.folder import machine_name, version_of_cce
from cce.machine.files import write_atomically

Row = Mapping[str, Any]

_PACKAGES = ("torch", "numpy", "gradio", "foolbox", "torchattacks", "pyautoattack")


def arguments(description: str) -> argparse.ArgumentParser:
    """The parser of a benchmark: `--json`, `--threads`, `--seed`, `--clock`; add to it what is its own."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--json", type=Path, metavar="FILE", help="also write ratios, rows and machine here")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    p.add_argument("--seed", type=int, default=0, help="of all random draws")
    p.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="what ratios are of: wall takes an idle machine, cpu (seconds of all threads) also a shared one",
    )
    return p


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the least and the median on the wall clock, the least of this process's CPU time."""

    wall: float
    median: float
    cpu: float
    rounds: int

    def seconds(self, clock: str = "wall") -> float:
        """The least seconds on `clock`, `wall` or `cpu`: what disturbs a measurement only ever adds."""
        return self.cpu if clock == "cpu" else self.wall


def side_by_side(
    works: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    seconds: float = 60.0,
    wait: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time each work in turn, round after round, so that all meet the same disturbances.

    Args:
        works: what to time, by name; each is called once before, unmeasured.
        rounds: at most so many.
        seconds: no further round begins after this long; the first always runs.
        wait: called after each work, for a device that computes on its own (`torch.cuda.synchronize`).
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()
    began = time.perf_counter()
    for i in range(rounds):
        if i and time.perf_counter() - began > seconds:
            break
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if wait:
                wait()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: _timing(times) for name, times in found.items()}


def _timing(times: Sequence[tuple[float, float]]) -> Timing:
    walls, cpus = zip(*times, strict=True)
    return Timing(min(walls), statistics.median(walls), min(cpus), len(times))


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the figures were measured on: device, cores, load, system and versions."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": machine_name(torch.device(device)),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cce": version_of_cce(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report(
    ratios: Mapping[str, float],
    rows: Sequence[Row],
    json_path: Path | str | None = None,
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Print rows and ratios as tables, and write them with the machine to `json_path` where one is given.

    Args:
        ratios: by name, `training.vs_float32` and the like; above 1 is faster than what it is compared with.
        rows: one mapping a line; columns are the keys in the order in which they first appear.
        json_path: file to replace; its folder must be there.
        device: what was measured.
    """
    where = machine(device)
    print(f"{where['device']}, {where['cores']} cores, {where['threads']} thread(s), load {where['load'] or 0:.1f}")
    print(table(rows))
    if ratios:
        print(table([{"ratio": name, "": value} for name, value in ratios.items()]))
    if json_path:
        found = {"ratios": dict(ratios), "rows": [dict(row) for row in rows], "machine": where}
        write_atomically(Path(json_path), json.dumps(found, indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text.

    >>> print(table([{"step": "plain", "seconds": 2.0}, {"step": "fast", "seconds": 0.51234, "ratio": 3.9}]))
    step   seconds  ratio
    plain        2
    fast     0.512    3.9
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(key), (int, float)) for row in rows) for key in columns]
    return "\n".join(
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
