"""Visitors who never come back: the Studio remembers the last few hundred, a megabyte each.

`python -m benchmarks.load` has 5,000 of them, through a server.
"""

from pathlib import Path

import pytest

from app import interface, long_work
from app.studio import Studio

pytestmark = pytest.mark.slow


def resident() -> float:
    """MB of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


KEPT = 30
"""Sessions that are remembered here: to make one copies the whole page."""


def test_memory_is_bounded_whatever_number_of_sessions(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    assert interface.SESSIONS <= 500
    monkeypatch.setattr(interface, "SESSIONS", KEPT)
    demo = interface.build(studio)
    app, _, _ = demo.launch(prevent_thread_lock=True, **interface.launch_settings())
    try:
        assert app.state_holder.capacity == KEPT
        app.state_holder["first"]
        before = resident()
        for i in range(3 * KEPT):
            app.state_holder[f"session {i}"]
        assert len(app.state_holder.session_data) <= KEPT
        assert resident() - before < KEPT + 20
        for i in range(2 * long_work.MOST_WORKS):
            long_work.fresh("attack", f"session {i}")
        assert len(long_work._works) <= long_work.MOST_WORKS
    finally:
        demo.close()
