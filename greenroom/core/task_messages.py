"""Messages of a ``Task``: claim, one command, save, release.

The rules of ``core.records`` hold: plain JSON, epoch seconds, one model per message.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from greenroom.core.brought import in_the_clear
from greenroom.core.records import Lease, Message, SavedWork

TAIL_BYTES = 4096
"""Bytes of each stream's end in a result, at most."""


class TaskRetry(Message):
    """How often the command may be started when nobody knows how it ended (died, lost).

    Above 1 only where it does no harm to run the command twice.
    """

    attempts: int = Field(1, ge=1, le=20)


class TaskInput(Message):
    """Input of ``Task``. ``claim_id`` empty: the end of the workflow's id, else a new one.

    ``ttl_s`` 0: the pool's. ``timeout_s`` of the command; 0: as long as the lease. ``env`` stands
    in the history, so no secret belongs there: ``sealed`` and ``host_secrets`` are for those.
    """

    pool: str
    claim_id: str = ""
    command: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(default_factory=dict)
    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()
    holder: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    priority: int = Field(0, ge=-100, le=100)
    ttl_s: float = 0.0
    wait_s: float = Field(3600.0, gt=0, le=30 * 86400)
    timeout_s: float = Field(0.0, ge=0)
    workdir: str = ""
    save: bool = True
    retry: TaskRetry = Field(default_factory=lambda: TaskRetry(attempts=1))
    plain: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _forget_secrets(cls, given: object) -> object:
        return in_the_clear(given, ("secrets", "files"))


RunOutcome = Literal["exited", "timed_out", "ended", "died", "lost"]
"""``ended``: the lease did; ``died``: the container did; ``lost``: nobody saw how it ended."""


class TaskResult(Message):
    """Result of ``Task``. ``exit_code`` is there for ``exited`` alone.

    ``output`` is a folder on the container's host with ``stdout`` and ``stderr``; the tails are
    their ends, without the secrets that Greenroom gave to the claim.
    """

    pool: str
    claim_id: str
    container: str
    commit: str
    warm: bool
    waited_s: float
    outcome: RunOutcome
    exit_code: int | None = None
    detail: str = ""
    stdout_tail: str = ""
    stderr_tail: str = ""
    output: str = ""
    saved: SavedWork | None = None
    seconds: float = 0.0
    attempt: int = 1


TaskPhase = Literal["waiting", "arming", "running", "saving", "done"]


class TaskStatus(Message):
    """Query ``state`` of a Task."""

    phase: TaskPhase
    pool: str
    claim_id: str
    attempt: int = 1
    lease: Lease | None = None


class RunInput(Message):
    """Activity ``run_task``: run the command of a Task in the container that ``lease`` holds."""

    lease: Lease
    command: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict)
    timeout_s: float = 0.0
    workdir: str = ""


class RunResult(Message):
    outcome: RunOutcome
    exit_code: int | None = None
    detail: str = ""
    stdout_tail: str = ""
    stderr_tail: str = ""
    output: str = ""
    seconds: float = 0.0
    reattached: bool = False


class HookInput(Message):
    """Activity ``run_hook``: one line of the pool's ``hooks.claim``; ``index`` counts from 0.

    ``brings``: the personal part comes from the claim's API, and is waited for.
    """

    lease: Lease
    index: int
    line: str
    limit_s: float
    brings: bool = False
    last: bool = False


class HookResult(Message):
    """How one line ended. ``exit_code`` None: it did not (``detail`` says why)."""

    index: int
    line: str
    exit_code: int | None = None
    detail: str = ""
    tail: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.exit_code != 0


def told(result: HookResult) -> str:
    """One sentence about a hook that failed; empty for one that did not."""
    if not result.failed:
        return ""
    how = result.detail or f"failed with code {result.exit_code}"
    return f"claim hook {result.index + 1} {how}: {result.line}"
