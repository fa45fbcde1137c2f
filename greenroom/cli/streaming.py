"""The CLI's end of a command in a container: standard streams over the API's WebSocket."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from greenroom.cli.http_client import Api
from greenroom.core import wire
from greenroom.core.errors import BackendError


@dataclass(frozen=True)
class Order:
    """What to run where. ``stdin``: feed it this process's standard input."""

    claim_id: str
    command: tuple[str, ...]
    stdin: bool = False
    tty: bool = False
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    token: int | None = None


class Sink(Protocol):
    """Where output goes: ``channel`` is 1 or 2."""

    def __call__(self, channel: int, data: bytes) -> None:
        """Take one piece of output."""


def to_streams(channel: int, data: bytes) -> None:
    """A ``Sink``: this process's own standard output and error."""
    view = memoryview(data)
    while view:
        view = view[os.write(channel, view) :]


class Kept:
    """A ``Sink`` that keeps everything, as text."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytearray] = {
            wire.STDOUT: bytearray(),
            wire.STDERR: bytearray(),
        }

    def __call__(self, channel: int, data: bytes) -> None:
        self._pieces[channel].extend(data)

    @property
    def stdout(self) -> str:
        return self._pieces[wire.STDOUT].decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self._pieces[wire.STDERR].decode(errors="replace")


def stream(api: Api, order: Order, sink: Sink = to_streams) -> int:
    """Run one command to its end; its exit code. Raises ``greenroom.core.errors``."""
    try:
        with connect(**api.websocket(wire.url("claims", order.claim_id, "exec"))) as socket:
            socket.send(_first(order))
            window = _Window()
            with _input(socket, order, window):
                return _output(socket, sink, window)
    except InvalidStatus as error:
        raise wire.error_of(
            error.response.status_code, bytes(error.response.body or b"")
        ) from error
    except (OSError, InvalidHandshake) as error:
        if isinstance(error, BrokenPipeError):
            raise  # our own standard output
        raise BackendError(f"the API broke off: {error}") from error


def _first(order: Order) -> str:
    columns, rows = _terminal_size() if order.tty else (0, 0)
    env = {"TERM": os.environ.get("TERM", "xterm"), **order.env} if order.tty else order.env
    return json.dumps(
        {
            "cmd": order.command,
            "tty": order.tty,
            "env": env,
            "workdir": order.workdir,
            "rows": rows,
            "cols": columns,
            "token": order.token,
        }
    )


def _terminal_size() -> tuple[int, int]:
    """Columns and rows of our terminal; not what COLUMNS and LINES say, which no resize changes."""
    for stream_fd in (0, 1, 2):
        with suppress(OSError):
            return os.get_terminal_size(stream_fd)
    return 80, 24


class _Window:
    """How much input is under way; the feeding thread waits here for room."""

    def __init__(self) -> None:
        self._under_way = 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._under_way + count <= wire.WINDOW)
            self._under_way += count

    def give(self, count: int) -> None:
        with self._changed:
            self._under_way -= count
            self._changed.notify_all()


def _output(socket: ClientConnection, sink: Sink, window: _Window) -> int:
    while True:
        try:
            message = socket.recv()
        except ConnectionClosed as error:
            raise BackendError(f"the API broke off while the command ran: {error}") from error
        match wire.hear(message):
            case wire.Output(channel, data):
                sink(channel, data)
            case wire.Ack(count):
                window.give(count)
            case wire.Exit(code):
                return code
            case None:
                continue


@contextmanager
def _input(socket: ClientConnection, order: Order, window: _Window) -> Iterator[None]:
    """Feed input, and follow the terminal's size, while the block runs."""
    if not order.stdin:
        _control(socket, wire.STDIN_EOF)
        yield
        return
    resized, wake = os.pipe()
    before = signal.getsignal(signal.SIGWINCH)
    if order.tty:
        signal.signal(signal.SIGWINCH, lambda *_: os.write(wake, b"w") and None)
    feeder = threading.Thread(target=_feed, args=(socket, resized, window), daemon=True)
    try:
        with _raw_terminal(wanted=order.tty):
            feeder.start()
            yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _feed(socket: ClientConnection, resized: int, window: _Window) -> None:
    """Send standard input until its end, and the terminal's size when it changes."""
    waiting = [0, resized]
    with suppress(ConnectionClosed):  # the command has ended
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if resized in ready:
                os.read(resized, wire.PIECE)
                columns, rows = _terminal_size()
                _control(socket, {"type": "resize", "rows": rows, "cols": columns})
            if 0 in ready:
                data = os.read(0, wire.PIECE)
                if not data:
                    _control(socket, wire.STDIN_EOF)
                    waiting = [resized]
                else:
                    window.take(len(data))
                    socket.send(wire.frame(wire.STDIN, data))


def _control(socket: ClientConnection, told: dict[str, object]) -> None:
    with suppress(ConnectionClosed):  # an answer that explains it is on its way
        socket.send(wire.control(told))


@contextmanager
def _raw_terminal(*, wanted: bool) -> Iterator[None]:
    if not wanted or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the command's
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
