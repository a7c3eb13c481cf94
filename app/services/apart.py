"""A process apart: for work that cannot be stopped from within, since it compiles or holds the interpreter's lock."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from cce.config import ConfigError

log = logging.getLogger(__name__)

Tell = Callable[[str, float], None]

_EVERY = 0.1
"""Seconds between two chances to stop."""

IDLE = 600
"""Seconds after which a process with nothing to do is ended: it holds some hundred megabytes."""


class Apart:
    """Runs functions one at a time in a process of its own, which stays for the next one.

    What it has compiled is kept with it. Told to stop, the process is ended, whatever it does, and the next function
    gets a fresh one. Functions, arguments and results travel by pickle, through a pipe without a name that only this
    process and the one it started hold: nothing from outside is ever read so. (`Connection.send` would put tensors
    into shared memory, which a killed process leaves behind.)
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._idle: threading.Timer | None = None

    def run(self, function: Callable[..., Any], *arguments: Any, tell: Tell | None = None) -> Any:
        """Call `function(*arguments, tell)` there.

        Args:
            function: of a module, so that it can be found there by its name.
            arguments: for it.
            tell: hears what the function tells, and the last of it again ten times a second: raising in it ends all.

        Returns:
            What the function gives.

        Raises:
            ConfigError: as raised by the function.
            RuntimeError: it failed in another way, or its process was lost; the log says more.
        """
        tell = tell or (lambda what, fraction: None)
        last = ("Getting ready", 0.0)
        while not self._turn.acquire(timeout=_EVERY):
            tell(*last)
        try:
            tell(*last)
            pipe = self._ready()
            try:
                pipe.send_bytes(pickle.dumps((function, arguments)))
                while True:
                    while not pipe.poll(_EVERY):
                        tell(*last)
                    kind, value = pickle.loads(pipe.recv_bytes())
                    if kind != "told":
                        break
                    last = value
                    tell(*last)
            except BaseException as error:
                self.end()
                if isinstance(error, (EOFError, OSError)):
                    raise RuntimeError("the process that worked apart was lost") from error
                raise
            if kind == "refused":
                raise ConfigError(value)
            if kind == "failed":
                log.error("in the process apart:\n%s", value)
                raise RuntimeError("the work apart failed")
            self._rest()
            return value
        finally:
            self._turn.release()

    def end(self) -> None:
        """End the process, at once."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            process.kill()
            process.join()
        if pipe is not None:
            pipe.close()

    def _ready(self) -> Connection:
        """The way to the process, started where there is none."""
        if self._idle is not None:
            self._idle.cancel()
        if self._pipe is not None and self._process.is_alive():
            return self._pipe
        self.end()
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, torch.get_num_threads()), name="cce-apart", daemon=True
        )
        self._process.start()
        theirs.close()
        return self._pipe

    def _rest(self) -> None:
        """End the process where nobody needs it for long."""
        self._idle = threading.Timer(IDLE, self._end_if_idle)
        self._idle.daemon = True
        self._idle.start()

    def _end_if_idle(self) -> None:
        if self._turn.acquire(blocking=False):
            try:
                self.end()
            finally:
                self._turn.release()


def _serve(pipe: Connection, threads: int) -> None:
    """In the process: one function after the other, until the other side is gone."""
    torch.set_num_threads(threads)

    def send(kind: str, value: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, value)))

    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            send("done", function(*arguments, lambda what, fraction: send("told", (what, fraction))))
        except ConfigError as error:
            send("refused", str(error))
        except Exception:
            send("failed", traceback.format_exc())
