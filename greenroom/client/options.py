"""What a claim and a command can be given, as keyword arguments, and how that travels."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from greenroom.client.documents import Place
from greenroom.core.errors import UsageError
from greenroom.core.names import check_claim_id, member_id

WAIT_S = 60.0
"""How long a claim waits for a container when it does not say, in seconds."""


class ClaimOptions(TypedDict, total=False):
    """Keyword arguments of a claim. Times are seconds."""

    claim_id: str
    """The same id with the same request gets the same container; omitted: a new one."""
    ttl: float
    """How long it lives; omitted: as the pool says."""
    wait: float
    """How long to wait when none is ready; omitted: 60."""
    holder: str
    labels: Mapping[str, str]
    priority: int
    """From -100 to 100: which waiting claims come first; omitted: 0."""
    heartbeat: float
    """The claim ends when nobody is heard of for so long; an open block says it by itself."""
    env: Mapping[str, str]
    """Environment variables of every command."""
    secrets: Mapping[str, str]
    """Files by name in ``/run/greenroom/secrets``; they never reach Temporal."""
    files: Mapping[str, bytes | str]
    """Files by name in ``/run/greenroom/files``."""
    git_name: str
    git_email: str
    discard: bool
    """Leaving the block throws the work away; omitted: it is saved."""
    wait_saved: bool
    """Leaving the block waits until the work is saved; omitted: it does."""
    on_queued: Callable[[Place], object]
    """Called with the place in the queue, once a second while it is waited."""


class CommandOptions(TypedDict, total=False):
    """Keyword arguments of a command."""

    stdin: bytes | str | AsyncIterable[bytes] | None
    """Standard input; omitted: it is at its end."""
    env: Mapping[str, str]
    workdir: str
    """Where it runs; omitted: the work tree."""
    timeout: float | None
    """Seconds after which it is killed, with CommandTimeoutError; omitted: never."""
    check: bool
    """Raise CommandError when the exit code is not 0."""


@dataclass(frozen=True)
class Wanted:
    """A claim that is asked for. ``named``: its caller chose the id and may ask again."""

    pool: str
    body: dict[str, Any]
    named: bool
    wait_s: float
    discard: bool = False
    wait_saved: bool = True
    on_queued: Callable[[Place], object] | None = None
    heartbeat_s: float = 0.0

    @property
    def claim_id(self) -> str:
        return str(self.body["claim_id"])

    @property
    def ids(self) -> list[str]:
        """What is granted: the claim itself, or the members of a group."""
        count = self.body.get("count", 1)
        if count == 1:
            return [self.claim_id]
        return [member_id(self.claim_id, number) for number in range(1, count + 1)]

    def group(self, count: int, *, partial: bool) -> Wanted:
        """The same for ``count`` containers."""
        return replace(self, body={**self.body, "count": count, "partial": partial})

    @classmethod
    def of(cls, pool: str, options: ClaimOptions) -> Wanted:
        """Raises UsageError for a claim id that cannot be one."""
        named = options.get("claim_id", "")
        wait_s = options.get("wait", WAIT_S)
        body = {
            "claim_id": check_claim_id(named) if named else new_claim_id(),
            "holder": options.get("holder", ""),
            "ttl_s": options.get("ttl", 0.0),
            "wait_s": wait_s,
            "labels": dict(options.get("labels", {})),
            "env": dict(options.get("env", {})),
            "secrets": dict(options.get("secrets", {})),
            "files": {name: _base64(data) for name, data in options.get("files", {}).items()},
            "git_name": options.get("git_name", ""),
            "git_email": options.get("git_email", ""),
            "priority": options.get("priority", 0),
            "heartbeat_s": options.get("heartbeat", 0.0),
        }
        return cls(
            pool=pool,
            body=body,
            named=bool(named),
            wait_s=wait_s,
            discard=options.get("discard", False),
            wait_saved=options.get("wait_saved", True),
            on_queued=options.get("on_queued"),
            heartbeat_s=options.get("heartbeat", 0.0),
        )


@dataclass(frozen=True)
class Command:
    """A command as it is asked for."""

    argv: tuple[str, ...]
    stdin: bytes | AsyncIterable[bytes] = b""
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    timeout_s: float | None = None
    check: bool = False

    @classmethod
    def of(cls, argv: Sequence[str], options: CommandOptions) -> Command:
        """Raises UsageError for a line in place of a list of words."""
        if isinstance(argv, str) or not argv:
            raise UsageError(f"{argv!r}: give a command as a list of words, such as ['ls', '-l']")
        stdin = options.get("stdin") or b""
        return cls(
            argv=tuple(argv),
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            env=dict(options.get("env", {})),
            workdir=options.get("workdir", ""),
            timeout_s=options.get("timeout"),
            check=options.get("check", False),
        )


def new_claim_id() -> str:
    """An id that nobody else has."""
    return "c" + secrets.token_hex(8)


def _base64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()
