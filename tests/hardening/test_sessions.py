"""Visitors who never come back: the Studio remembers the last few hundred, within 300 MB of its start.

`python -m benchmarks.load` has as many through a server.
"""

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from gradio import state_holder

from app import interface, long_work
from app.studio import Studio

pytestmark = pytest.mark.slow


def resident() -> float:
    """MB of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_a_session_holds_no_copy_of_the_page_nor_of_what_is_shown_on_it(studio: Studio):
    demo = interface.build(studio)
    tracemalloc.start()
    held = [state_holder.SessionState(demo) for _ in range(20)]
    each = tracemalloc.get_traced_memory()[0] / len(held)
    assert each < 150_000
    opened = next(fn for fn in demo.fns.values() if getattr(fn.fn, "__name__", "") == "opened")
    link = "?model=tiny-two&attack=pgd&epsilon=20&label=3"
    answer = asyncio.run(demo.process_api(opened, [link], state=held[0]))
    grew = tracemalloc.get_traced_memory()[0] / len(held) - each
    tracemalloc.stop()
    assert "tiny-two" in answer["data"] and grew < 150_000
    assert list(held[0].components) == []  # what /gradio_api/deep_link would write to the disk
    picked = next(b for b in demo.blocks.values() if b.get_block_name() == "state")
    held[0][picked._id] = "kept"
    assert held[0][picked._id] == "kept" and held[1][picked._id] != "kept"


def test_five_thousand_sessions_stay_within_300_mb_of_the_start(studio: Studio):
    demo = interface.build(studio)
    app, _, _ = demo.launch(prevent_thread_lock=True, **interface.launch_settings())
    try:
        assert app.state_holder.capacity == interface.SESSIONS <= 500
        app.state_holder["first"]
        before = resident()
        for i in range(5000):
            app.state_holder[f"session {i}"]
        for i in range(2 * long_work.MOST_WORKS):
            long_work.fresh("attack", f"session {i}")
        assert len(app.state_holder.session_data) <= interface.SESSIONS
        assert len(long_work._works) <= long_work.MOST_WORKS
        assert resident() - before < 300
    finally:
        demo.close()
