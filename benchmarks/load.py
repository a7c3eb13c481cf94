"""Many at once, and for long: `python -m benchmarks.load`.

Ten users press Attack together: how long each waits, the highest place in line that one was told, and how long the
page takes meanwhile. Somebody asks for long work and goes away: how soon others have answers. 50 clients who call now
this and now that for two minutes. Then the Studio's memory after 50 and after 500 attacks, and after 5,000 visitors who
each ask once for the runs. `--parts` chooses among these.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

from benchmarks import reporting, serving, visitors
from cce.data import datasets as data
from cce.data.pictures import to_png

EARLY, MOST_GROWTH = 50, 1.15
PARTS = ("together", "hog", "mixed", "memory", "sessions")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = reporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10, help="how many attack at once")
    parser.add_argument("--each", type=int, default=3, help="attacks of each of them, one after the other")
    parser.add_argument("--attacks", type=int, default=500, help="attacks after which memory is measured again")
    parser.add_argument("--sessions", type=int, default=5000, help="visitors who come once")
    parser.add_argument("--clients", type=int, default=50, help="how many call now this and now that")
    parser.add_argument("--seconds", type=float, default=120, help="for how long they do")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument("--model", default="digits-cce-dm", help="the ensemble that is attacked")
    options = parser.parse_args(arguments)
    with serving.studio(options.threads) as served, tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        shape = data.samples(options.model.split("-")[0])
        picture.write_bytes(to_png(shape.pixels()[0]))
        given = {"image": handle_file(picture), "label": "auto", "model": options.model, "steps": 20}
        rows: list[dict[str, Any]] = [{"what": "memory after the start", "MB": served.resident()}]
        done = 0
        if "together" in options.parts:
            rows.append(together(served.url, given, options.users, options.each))
            done = options.users * options.each
        if "hog" in options.parts:
            rows.append(visitors.after_a_hog(served, picture, options.model))
        if "mixed" in options.parts:
            told = (options.clients, options.seconds, options.seed)
            rows.append(visitors.mixed(served, picture, options.model, *told))
        if "memory" in options.parts:
            rows += memory(served, given, done, options.attacks)
        if "sessions" in options.parts:
            rows.append(sessions(served, options.sessions))
    reporting.report({}, rows, options.json)
    return 0


def together(url: str, given: dict[str, Any], users: int, each: int) -> dict[str, Any]:
    """All at once: a row with what they met."""
    seconds: list[float] = []
    places: list[int] = []
    failed: list[str] = []
    everyone = threading.Barrier(users)

    def user() -> None:
        client = Client(url, verbose=False)
        everyone.wait()
        for _ in range(each):
            begun = time.perf_counter()
            job = client.submit(**given | {"image": dict(given["image"])}, api_name="/attack")
            while not job.done():
                rank = job.status().rank
                if rank is not None:
                    places.append(rank + 1)
                time.sleep(0.02)
            if job.exception():
                failed.append(reason(job.exception()))
            else:
                seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=user) for _ in range(users)]
    for thread in threads:
        thread.start()
    page = 0.0  # seconds
    while any(thread.is_alive() for thread in threads):
        begun = time.perf_counter()
        with urllib.request.urlopen(url, timeout=120) as answer:
            answer.read()
        page = max(page, time.perf_counter() - begun)
        time.sleep(0.25)
    for words in failed:
        print(f"an attack failed: {words}", file=sys.stderr, flush=True)
    return {
        "what": f"{users} users at once",
        "attacks": len(seconds),
        "failed": len(failed),
        "why": "; ".join(dict.fromkeys(failed)),
        "longest wait, s": max(seconds, default=None),
        "farthest place in line": max(places, default=None),
        "slowest page, s": page,
    }


def sessions(served: serving.Served, count: int) -> dict[str, Any]:
    """Resident memory before and after so many visitors, each in a session of its own."""
    with urllib.request.urlopen(f"{served.url}config", timeout=120) as answer:
        listeners = json.load(answer)["dependencies"]
    number = next(d["id"] for d in listeners if d["api_name"] == "runs")
    before, begun = served.resident(), time.perf_counter()

    def visit(_: int) -> None:
        session = uuid.uuid4().hex
        body = json.dumps({"fn_index": number, "data": [], "session_hash": session}).encode()
        headers = {"Content-Type": "application/json"}
        join = urllib.request.Request(f"{served.url}gradio_api/queue/join", body, headers)
        urllib.request.urlopen(join, timeout=120).close()
        with urllib.request.urlopen(f"{served.url}gradio_api/queue/data?session_hash={session}", timeout=120) as told:
            told.read()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(count)))
    after = served.resident()
    took = (time.perf_counter() - begun) / max(1, count)
    return {
        "what": f"{count} sessions",
        "MB before": before,
        "MB after": after,
        "grew, MB": after - before,
        "s each": took,
    }


def reason(error: BaseException) -> str:
    """What an attack failed of, in a line: the kind of each error on the way, and its words."""
    found: list[str] = []
    at: BaseException | None = error
    while at is not None:
        found.append(f"{type(at).__name__}: {' '.join(str(at).split())}")
        at = at.__cause__ or at.__context__
    return " <- ".join(found)


def memory(served: serving.Served, given: dict[str, Any], done: int, last: int) -> list[dict[str, Any]]:
    """Resident memory after 50 and after `last` attacks, and how much it grew."""
    client = Client(served.url, verbose=False)
    held = {}
    begun = time.perf_counter()
    for number in range(done + 1, last + 1):
        client.predict(**given, seed=number, api_name="/attack")
        if number in (EARLY, last):
            held[number] = served.resident()
            print(f"after {number} attacks: {held[number]:.0f} MB", file=sys.stderr, flush=True)
    rate = (time.perf_counter() - begun) / max(1, last - done)
    rows = [{"what": f"memory after {number} attacks", "MB": megabytes} for number, megabytes in held.items()]
    if EARLY in held and last in held:
        growth = held[last] / held[EARLY]
        rows.append({"what": "growth", "ratio": growth, "at most": MOST_GROWTH, "s an attack": rate})
    return rows


if __name__ == "__main__":
    sys.exit(main())
