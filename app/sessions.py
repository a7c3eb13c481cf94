"""Sessions: what the server remembers of each page, which is the values of its states and no copy of the page."""

from __future__ import annotations

import datetime
from copy import copy
from typing import Any

from gradio import blocks, route_utils, state_holder
from gradio.components import State
from gradio.state_holder import SessionState

CLOSED_SECONDS = 3600
"""How long the state of a closed page is kept, in case it is opened again."""


def remember_little() -> None:
    """Let Gradio remember sessions as `Session`s.

    Gradio 6.31 describes every component of the page anew for each session, which costs a tenth of a second and 0.9 MB,
    and keeps whatever is shown in it after that. It is for links that carry a whole page, which the Studio has not: its
    own are read from the address. Anybody could have them written to the disk by `/gradio_api/deep_link`.
    """
    for module in (state_holder, blocks, route_utils):
        module.SessionState = Session  # type: ignore[misc, attr-defined]


class Session(SessionState):
    """Gradio's session without the description of each component.

    Args:
        page: what it is a session of.
    """

    def __init__(self, page: blocks.Blocks) -> None:
        self.blocks_config = copy(page.default_config)
        self.config_values: dict[int, Any] = {}  # stays empty
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = CLOSED_SECONDS

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, State):
            self._state_ttl[key] = (block.time_to_live, datetime.datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        """Nothing is described."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing is described."""
