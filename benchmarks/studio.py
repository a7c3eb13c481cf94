"""The Studio's speed, through the real app: `python -m benchmarks.studio`.

Seconds from `python app.py` to the first page, to a page that can be used, to an attack, to a loss surface and to
a detection run, each on the bundled files, beside what is promised for two idle cores.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

from benchmarks import reporting, serving
from cce.data import datasets as data
from cce.data.pictures import to_png

MODEL = "cifar10-resnet20-cce-dm"
PROMISED = {
    "first page": 10.0,
    "page interactive": 3.0,
    "attack after warm-up": 1.0,
    "surface 41 x 41": 2.0,
    "detection on 200 images": 15.0,
}
"""Seconds, at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = reporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="the ensemble that is attacked")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []

    def note(what: str, seconds: float | None, remark: str = "", cpu: float | None = None) -> None:
        rows.append({"what": what, "seconds": seconds, "at most": PROMISED.get(what), "CPU s": cpu, "remark": remark})
        print(f"{what}: {'-' if seconds is None else f'{seconds:.2f} s'} {remark}", file=sys.stderr, flush=True)

    with serving.studio(options.threads) as served, tempfile.TemporaryDirectory() as folder:
        note("first page", served.seconds, cpu=served.cpu())
        note("page interactive", *page_interactive(served.url))

        def timed(what: str, work: Callable[[], Any], remark: str = "", times: int = 1) -> None:
            """The least of some times, with the CPU seconds of the Studio's process."""
            found = []
            for _ in range(times):
                before, seconds, after = served.cpu(), seconds_of(work), served.cpu()
                found.append((seconds, None if before is None or after is None else after - before))
            seconds, cpu = min(found)
            note(what, seconds, remark, cpu)

        client = Client(served.url, verbose=False)
        picture = Path(folder) / "picture.png"
        picture.write_bytes(to_png(data.samples("cifar10").pixels()[0]))
        given = {"image": handle_file(picture), "label": "auto", "model": options.model, "seed": options.seed}
        attack = ask(client, "/attack", **given)
        timed("first attack", attack)
        timed("attack after warm-up", attack, "least of 3", times=3)
        detection = {"model": "digits-cce-dm", "attacks": ["pgd"], "epsilons": [38.25], "count": 200}
        known = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        for what, name, settings in (
            ("surface 41 x 41", "/surface", {**given, "resolution": 41}),
            ("detection on 200 images", "/detection", detection),
        ):
            if name not in known:
                note(what, None, f"no endpoint {name}")
                continue
            taken = {p["parameter_name"] for p in known[name]["parameters"]}
            work = ask(client, name, **{key: value for key, value in settings.items() if key in taken})
            timed(what, work, "" if name == "/surface" else "digits-cce-dm, one attack")
    reporting.report({}, rows, options.json)
    return 0


def ask(client: Client, name: str, **given: Any) -> Callable[[], Any]:
    """A call of an endpoint, to be timed."""
    return lambda: client.predict(**given, api_name=name)


def seconds_of(work: Callable[[], Any]) -> float:
    """How long it takes once."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def page_interactive(url: str) -> tuple[float | None, str, float | None]:
    """From the address to figures that are drawn and a button that can be pressed; None without a browser.

    Returns:
        Seconds, a remark, and the CPU seconds of the browser, its start among them.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None, "playwright is not installed", None
    named = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        begun = time.perf_counter()
        page.goto(url, timeout=300_000)
        page.wait_for_selector("#probabilities .main-svg", timeout=300_000)
        page.wait_for_selector("#attack-go:not([disabled])", timeout=300_000)
        seconds = time.perf_counter() - begun
        browser.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, "Chromium, nothing cached; CPU with its start", cpu


if __name__ == "__main__":
    sys.exit(main())
