"""Visitors of a served Studio, as light as they can be: calls through its queue by HTTP, without Gradio's client."""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import serving

MIX = {"classify": 60, "attack": 20, "models": 6, "runs": 6, "surface": 6, "detection": 2}
"""How often each endpoint is called, in percent."""

THINKS = (1.0, 5.0)
"""Seconds that a visitor waits between an answer and the next call, at least and at most."""


class RefusedError(RuntimeError):
    """A call that was not answered; the message says why."""


class Visitor:
    """One visitor in a session of their own, who has uploaded a picture."""

    def __init__(self, served: serving.Served, numbers: dict[str, int], picture: Path) -> None:
        self.numbers, self.session = numbers, uuid.uuid4().hex
        self.http = httpx.Client(base_url=f"{served.url}gradio_api/", timeout=300)
        said = self.http.post("upload", files={"files": (picture.name, picture.read_bytes())})
        said.raise_for_status()
        self.picture = {"path": said.json()[0], "meta": {"_type": "gradio.FileData"}}

    def ask(self, name: str, given: list[Any]) -> None:
        """Put a call in line."""
        body = {"fn_index": self.numbers[name], "data": given, "session_hash": self.session}
        said = self.http.post("queue/join", json=body)
        if said.status_code != 200:
            raise RefusedError(f"{name}: {said.status_code} {said.text[:200]}")

    @contextlib.contextmanager
    def listening(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages that follow; leaving off is going away."""
        with self.http.stream("GET", "queue/data", params={"session_hash": self.session}) as told:
            yield (json.loads(line[5:]) for line in told.iter_lines() if line.startswith("data:"))

    def call(self, name: str, given: list[Any]) -> float:
        """Call an endpoint and wait for its answer; the seconds that it took.

        Raises:
            RefusedError: there was none.
        """
        begun = time.perf_counter()
        self.ask(name, given)
        with self.listening() as messages:
            for message in messages:
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RefusedError(f"{name}: {message['output'].get('error')}")
                    return time.perf_counter() - begun
        raise RefusedError(f"{name}: the answer broke off")


def endpoints(served: serving.Served) -> dict[str, int]:
    """The numbers of the public endpoints."""
    listeners = httpx.get(f"{served.url}config", timeout=120).json()["dependencies"]
    return {d["api_name"]: d["id"] for d in listeners if d["api_visibility"] == "public"}


def mixed(
    served: serving.Served, picture: Path, model: str, count: int, seconds: float, seed: int = 0
) -> dict[str, Any]:
    """So many visitors for so long, each calling now this and now that: a row with what they met."""
    numbers, before = endpoints(served), served.resident()
    took: dict[str, list[float]] = defaultdict(list)
    failed: list[str] = []
    end = time.perf_counter() + seconds

    def visit(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        visitor = Visitor(served, numbers, picture)
        given = {
            "classify": [visitor.picture, model],
            "attack": [visitor.picture, "auto", model, "pgd", 8, 2, 20, "ensemble", number],
            "surface": [visitor.picture, "auto", model, "pgd", 8, 2, 20, "ensemble", number, 32, 25],
            "detection": [model, ["pgd"], None, 20],
        }
        time.sleep(chance.uniform(0, THINKS[1]))
        while time.perf_counter() < end:
            (name,) = chance.choices(list(MIX), list(MIX.values()))
            try:
                took[name].append(visitor.call(name, given.get(name, [])))
            except (RefusedError, httpx.HTTPError) as error:
                failed.append(f"{type(error).__name__}: {error}")
            time.sleep(chance.uniform(*THINKS))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = sum(map(len, took.values()))
    row = {"what": f"{count} clients, {seconds:.0f} s, mixed", "answers": answers, "failed": len(failed)}
    row |= {"why": "; ".join(dict.fromkeys(failed))[:300]}
    row |= {f"{name} p95, s": percentile(took[name]) for name in ("classify", "attack", "surface", "detection")}
    return row | {"MB before": before, "MB after": served.resident()}


def percentile(seconds: list[float], percent: int = 95) -> float | None:
    """What so many percent of the calls took at most; None where there are too few."""
    return statistics.quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else None


def after_a_hog(served: serving.Served, picture: Path, model: str) -> dict[str, Any]:
    """Somebody asks for long work and goes away: how soon another visitor has answers."""
    numbers = endpoints(served)
    hog, other = Visitor(served, numbers, picture), Visitor(served, numbers, picture)
    hog.ask("detection", [model, ["pgd", "bim", "mim"], [2, 4, 6, 8], 200])
    with hog.listening() as messages:
        next(m for m in messages if m["msg"] == "process_starts")
        time.sleep(1)
        beside = other.call("classify", [other.picture, model])
    begun = time.perf_counter()
    classified = other.call("classify", [other.picture, model])
    other.call("attack", [other.picture, "auto", model, "pgd", 8, 2, 20, "ensemble", 0])
    return {
        "what": "after a hog has gone",
        "classify beside it, s": beside,
        "classify, s": classified,
        "an attack answered after, s": time.perf_counter() - begun,
    }
