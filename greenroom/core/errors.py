"""The one hierarchy of errors, and the one table that says what each means outside.

    GreenroomError
    ├── UsageError            what was given is wrong             exit 2    HTTP 400
    │   ├── PoolFileError     … in a pool file: file, line, value
    │   ├── SecretError       … a sealed value or a host secret cannot be had
    │   ├── PlannedError      … designed, but not built yet
    │   ├── TooLargeError     … larger than what is taken here         HTTP 413
    │   ├── SlowRequestError  … it does not arrive                     HTTP 408
    │   ├── WrongMethodError  … another HTTP method than the path has  HTTP 405
    │   ├── UnauthorizedError no token, or one that is not good        HTTP 401
    │   └── ForbiddenError    the token may not do this                HTTP 403
    ├── ConflictError         the same id with another request    exit 2    HTTP 409
    ├── NoContainerError      none within the wait                exit 3    HTTP 503
    ├── NotFoundError         unknown or ended pool, claim, host  exit 4    HTTP 404
    │   ├── FencedError       an old token
    │   ├── CorpseError       the claimed container is not running
    │   └── ClaimTooOldError  issued before what the ledger remembers
    ├── LiveClaimsError       would end somebody's claim          exit 2    HTTP 409
    ├── BackendError          Temporal or Docker out of reach     exit 5    HTTP 502
    │   ├── EngineError       Docker answered with an error, or not at all
    │   ├── GateError         the gate or the opener
    │   ├── TemporalError     the Temporal service
    │   │   └── OverloadedError  … takes no more Updates of one workflow at once
    │   ├── DrainingError     the keeper is continuing as new: ask again
    │   └── RateLimitError    too many requests: ask again later       HTTP 429
    ├── PreparationError      a step of preparing failed for good exit 1    HTTP 422
    │   └── StepTimeoutError  … because it hung
    └── CommandError          a command's exit code is not 0      exit 1    HTTP 422
        └── CommandTimeoutError  … because it was ended at its time-out

``code`` is what travels: the ``type`` of a Temporal ``ApplicationError``, the ``error`` of an
HTTP answer, the ``error`` of ``--json``. ``retryable`` says whether an activity that raises it
may be tried again unchanged.
"""

from __future__ import annotations

from typing import ClassVar


class GreenroomError(Exception):
    """Base of everything that Greenroom raises on purpose.

    ``details`` are small JSON values for programs (never secrets); ``str()`` is for people.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    exec_exit_code: ClassVar[int] = 125
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: str | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class UsageError(GreenroomError):
    """What the caller gave is wrong; the message says what would be right."""

    code = "usage"
    exit_code = 2
    exec_exit_code = 120
    http_status = 400


class PoolFileError(UsageError):
    """A pool file is wrong; the message starts with ``file:line``."""

    code = "pool_file"


class SecretError(UsageError):
    """A sealed value does not open for this claim, or a host secret is not for it."""

    code = "secret"


class PlannedError(UsageError):
    """Asked for something that the design names and this version does not have yet."""

    code = "planned"


class TooLargeError(UsageError):
    """More bytes than this request may have; the message says how many it may."""

    code = "too_large"
    http_status = 413


class SlowRequestError(UsageError):
    """The rest of a request did not arrive in time."""

    code = "slow_request"
    http_status = 408


class WrongMethodError(UsageError):
    """The path is there, but not with this HTTP method; ``details['allow']`` names those it has."""

    code = "wrong_method"
    http_status = 405


class UnauthorizedError(UsageError):
    """No token was given, or one that is unknown, revoked or expired."""

    code = "unauthorized"
    http_status = 401


class ForbiddenError(UsageError):
    """The token is good, but not for this."""

    code = "forbidden"
    http_status = 403


class ConflictError(GreenroomError):
    """The same claim id was used with a different request."""

    code = "conflict"
    exit_code = 2
    exec_exit_code = 120
    http_status = 409


class LiveClaimsError(GreenroomError):
    """The operation would end claims that somebody holds; ``details['claims']`` names them."""

    code = "live_claims"
    exit_code = 2
    exec_exit_code = 120
    http_status = 409


class NoContainerError(GreenroomError):
    """No container became free within the time that the caller would wait."""

    code = "no_container"
    exit_code = 3
    exec_exit_code = 121
    http_status = 503


class NotFoundError(GreenroomError):
    """An unknown or ended pool, claim, container or host."""

    code = "not_found"
    exit_code = 4
    exec_exit_code = 122
    http_status = 404


class FencedError(NotFoundError):
    """The token is not that of the live lease."""

    code = "fenced"


class CorpseError(NotFoundError):
    """The container of a lease is not running; the same claim can have another one."""

    code = "corpse"


class ClaimTooOldError(NotFoundError):
    """The claim was issued before the oldest that the ledger remembers, and is not found."""

    code = "claim_too_old"


class BackendError(GreenroomError):
    """Temporal, Docker or the gate cannot be reached, or does not do what it must."""

    code = "backend"
    exit_code = 5
    exec_exit_code = 123
    http_status = 502
    retryable = True


class EngineError(BackendError):
    """The Docker Engine failed or did not answer."""

    code = "engine"


class GateError(BackendError):
    """The gate or its opener failed or did not answer."""

    code = "gate"


class TemporalError(BackendError):
    """The Temporal service failed or did not answer."""

    code = "temporal"


class OverloadedError(TemporalError):
    """More Updates at once on one workflow than the Temporal server allows."""

    code = "overloaded"
    http_status = 503


class DrainingError(BackendError):
    """The keeper is handing over to its next run; the same request succeeds in a moment."""

    code = "draining"
    http_status = 503


class RateLimitError(BackendError):
    """The token's share of requests is used up; ``details['retry_after_s']`` says until when."""

    code = "rate_limit"
    http_status = 429


class PreparationError(GreenroomError):
    """A step of preparing a snapshot or a container failed in a way that repeats.

    ``details``: ``step`` and ``tail``, the last lines of its output.
    """

    code = "preparation"
    http_status = 422


class StepTimeoutError(PreparationError):
    """A step of preparing went on past its time-out and was ended."""

    code = "step_timeout"
    exec_exit_code = 124


class CommandError(GreenroomError):
    """A command in a container ended with another exit code than 0, and that was asked to raise.

    ``details``: ``exit_code``, None when it was killed. ``stdout`` and ``stderr`` are what it had
    printed, where that was kept.
    """

    code = "command"
    http_status = 422
    stdout: str = ""
    stderr: str = ""


class CommandTimeoutError(CommandError):
    """A command went on past its time-out and was killed."""

    code = "command_timeout"
    exec_exit_code = 124


def _all_subclasses(cls: type[GreenroomError]) -> list[type[GreenroomError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_all_subclasses(sub))
    return found


BY_CODE: dict[str, type[GreenroomError]] = {
    cls.code: cls for cls in _all_subclasses(GreenroomError)
}
"""Every error class by its ``code``; how an error is rebuilt on the far side of a wire."""


def from_code(
    code: str, message: str, details: dict[str, str | int | float | bool | None] | None = None
) -> GreenroomError:
    """The error that travelled as ``code``; an unknown code becomes a plain GreenroomError."""
    return BY_CODE.get(code, GreenroomError)(message, **(details or {}))
