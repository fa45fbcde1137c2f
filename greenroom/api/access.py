"""The one table that says what each route asks of its caller. ``guard`` holds callers to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from starlette.routing import compile_path

from greenroom.core.access import Scope

WEBSOCKET = "WEBSOCKET"
"""The "method" of a WebSocket route in ``RULES``."""
SMALL, LARGE, HUGE = 1 << 20, 32 << 20, 2 << 30
"""Bytes that a request's body may have: plain JSON, a claim with its files, an archive."""


class Subject(Enum):
    """What of the caller's pools a route touches."""

    NOTHING = auto()
    """No pool."""
    POOL = auto()
    """The one that ``{pool}`` names; another than the caller's is 403."""
    CLAIM = auto()
    """That of the live claim ``{claim_id}``; another's is 404, as one that does not exist."""
    FILTERED = auto()
    """Any; the answer has only the caller's (``ApiState.grant``)."""
    ALL_POOLS = auto()
    """All of them: only for a token of all pools."""


@dataclass(frozen=True)
class Rule:
    """``scope`` None: for everybody, without a token. ``body`` is the largest in bytes."""

    scope: Scope | None
    subject: Subject
    body: int = SMALL


_OPEN = Rule(None, Subject.NOTHING)
_READ_SOME = Rule(Scope.READ, Subject.FILTERED)
_READ_POOL = Rule(Scope.READ, Subject.POOL)
_USE_CLAIM = Rule(Scope.CLAIM, Subject.CLAIM)
_USE_POOL = Rule(Scope.CLAIM, Subject.POOL)
_CHANGE_POOL = Rule(Scope.ADMIN, Subject.POOL)

RULES: dict[tuple[str, str], Rule] = {
    ("GET", "/healthz"): _OPEN,
    ("GET", "/readyz"): _OPEN,
    ("GET", "/openapi.json"): _OPEN,
    ("GET", "/metrics"): Rule(Scope.READ, Subject.ALL_POOLS),
    ("GET", "/v1/pools"): _READ_SOME,
    ("GET", "/v1/pools/{pool}"): _READ_POOL,
    ("GET", "/v1/pools/{pool}/queue/{claim_id}"): _READ_POOL,
    ("PUT", "/v1/pools/{pool}"): _CHANGE_POOL,
    ("DELETE", "/v1/pools/{pool}"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/suspend"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/pause"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/resume"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/resize"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/refresh"): _CHANGE_POOL,
    ("POST", "/v1/pools/{pool}/claims"): Rule(Scope.CLAIM, Subject.POOL, LARGE),
    ("GET", "/v1/pools/{pool}/key"): _READ_POOL,
    ("POST", "/v1/pools/{pool}/tasks"): Rule(Scope.CLAIM, Subject.POOL),
    ("GET", "/v1/tasks/{ident}"): Rule(Scope.CLAIM, Subject.FILTERED),
    ("DELETE", "/v1/tasks/{ident}"): Rule(Scope.CLAIM, Subject.FILTERED),
    ("GET", "/v1/claims"): _READ_SOME,
    ("GET", "/v1/claims/{claim_id}"): _READ_SOME,  # queued and ended ones too
    ("DELETE", "/v1/claims/{claim_id}"): _USE_CLAIM,
    ("POST", "/v1/claims/{claim_id}/extend"): _USE_CLAIM,
    ("POST", "/v1/claims/{claim_id}/heartbeat"): _USE_CLAIM,
    ("POST", "/v1/claims/{claim_id}/transfer"): _USE_CLAIM,
    ("GET", "/v1/claims/{claim_id}/files"): _USE_CLAIM,
    ("PUT", "/v1/claims/{claim_id}/files"): Rule(Scope.CLAIM, Subject.CLAIM, HUGE),
    (WEBSOCKET, "/v1/claims/{claim_id}/exec"): _USE_CLAIM,
    (WEBSOCKET, "/v1/claims/{claim_id}/forward"): _USE_CLAIM,
    ("GET", "/v1/saved"): _READ_SOME,
    ("GET", "/v1/saved/{pool}/{claim_id}"): _READ_POOL,
    ("DELETE", "/v1/saved/{pool}/{claim_id}"): _USE_POOL,
    ("GET", "/v1/saved/{pool}/{claim_id}/export"): _USE_POOL,
    ("GET", "/v1/logs/{ident}"): _READ_SOME,
}
"""By method and path template. A route that is not here is for the Unix socket only."""

_PATTERNS = {template: compile_path(template)[0] for _, template in RULES}


@dataclass(frozen=True)
class Matched:
    """A path's template, the values in it, and the rules of its methods."""

    template: str
    values: dict[str, str]
    rules: dict[str, Rule]


def match(path: str) -> Matched | None:
    """The template that a path fits; None for none."""
    for template, pattern in _PATTERNS.items():
        found = pattern.match(path)
        if found:
            rules = {method: rule for (method, known), rule in RULES.items() if known == template}
            return Matched(template, found.groupdict(), rules)
    return None
