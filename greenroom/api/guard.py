"""Who may pass to the application from a TCP listener. The Unix socket has no guard.

Plain ASGI. It finds the caller's token, its rule in ``access.RULES``, holds the token to its rate,
its scope and its pools, and bounds the body in size and time. A WebSocket whose token is revoked
or expires is ended within ``WATCH_S``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from greenroom.api.access import WEBSOCKET, Matched, Rule, Subject, match
from greenroom.api.errors import GRANT, TEMPLATE, Refused, refuse
from greenroom.api.leases import find_lease
from greenroom.api.state import ApiState
from greenroom.core.access import NOBODY, Bucket, Grant, parse_bearer, take
from greenroom.core.errors import (
    ForbiddenError,
    GreenroomError,
    NotFoundError,
    RateLimitError,
    SlowRequestError,
    TooLargeError,
    UnauthorizedError,
    WrongMethodError,
)
from greenroom.services.tokens import TokenBook, TokenRecord

BODY_S = 30.0
"""How long the next piece of a body may take."""
WATCH_S = 1.0
ANONYMOUS_RATE = 20.0
_MOST_BUCKETS = 10_000
_NOT_GOOD = "the token was revoked or has expired"


class Guard:
    """The application behind its rules."""

    def __init__(self, app: ASGIApp, state: ApiState) -> None:
        self._app = app
        self._state = state
        self._tokens = TokenBook(state.paths)
        self._buckets: dict[str, Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            rule, token = await self._admit(scope)
        except GreenroomError as error:
            await refuse(error, scope, receive, send)
            return
        if scope["type"] == "http":
            body = _Body(scope, receive, rule.body)
            if body.too_large_from_the_start():
                await refuse(body.too_large(), scope, receive, send)
                return
            await self._app(scope, body.receive, send)
        else:
            await self._watched(scope, receive, send, token)

    async def _watched(
        self, scope: Scope, receive: Receive, send: Send, token: TokenRecord | None
    ) -> None:
        """A WebSocket, whatever it waits for, until it ends or its token is not good any more."""
        serving = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            while not (await asyncio.wait({serving}, timeout=WATCH_S))[0]:
                if not self._still_good(token):
                    break
        finally:
            over = serving.cancel()
            ended = await asyncio.gather(serving, return_exceptions=True)
        if not over and isinstance(ended[0], BaseException):
            raise ended[0]
        if over:
            with suppress(RuntimeError, OSError, TimeoutError):  # closed already, or not reading
                async with asyncio.timeout(WATCH_S):
                    await send({"type": "websocket.close", "code": 1008, "reason": _NOT_GOOD})

    async def _admit(self, scope: Scope) -> tuple[Rule, TokenRecord | None]:
        """The rule of this request and its token (None: not needed). Raises GreenroomError."""
        matched = match(scope["path"])
        rule = _rule(matched, scope)
        if rule is not None and rule.scope is None:
            self._spend(f"@{(scope.get('client') or ('',))[0]}", ANONYMOUS_RATE)
            scope[GRANT], scope[TEMPLATE] = NOBODY, matched.template if matched else ""
            return rule, None
        try:
            ident, secret = parse_bearer(_header(scope, b"authorization"))
            token = self._tokens.find(ident, secret, time.time())
        except UnauthorizedError:
            self._spend(f"@{(scope.get('client') or ('',))[0]}", ANONYMOUS_RATE)
            raise
        self._spend(token.ident, token.rate)
        if rule is None or rule.scope is None or matched is None:
            raise _no_such(matched, scope)
        token.grant.check_scope(rule.scope)
        await self._check_subject(rule, matched, token.grant)
        scope[GRANT], scope[TEMPLATE] = token.grant, matched.template
        return rule, token

    async def _check_subject(self, rule: Rule, matched: Matched, grant: Grant) -> None:
        if rule.subject is Subject.POOL:
            grant.check_pool(matched.values["pool"])
        elif rule.subject is Subject.ALL_POOLS and not grant.all_pools:
            raise ForbiddenError(f"token {grant.name} is not for all pools, this is")
        elif rule.subject is Subject.CLAIM:
            await find_lease(self._state.seen_by(grant), matched.values["claim_id"])

    def _spend(self, who: str, rate: float) -> None:
        """Take one request out of somebody's bucket. Raises RateLimitError."""
        if len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.clear()  # addresses that never come back; everybody starts full again
        now = time.monotonic()
        self._buckets[who], wait_s = take(
            self._buckets.get(who), now, rate=rate, burst=max(1.0, 2 * rate)
        )
        if wait_s:
            raise RateLimitError(
                f"more than {rate:g} requests a second; ask again in {wait_s:.2f} s",
                retry_after_s=round(wait_s, 3),
            )

    def _still_good(self, token: TokenRecord | None) -> bool:
        return token is None or self._tokens.has(token, time.time())


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            text: str = value.decode("latin-1")
            return text
    return None


def _rule(matched: Matched | None, scope: Scope) -> Rule | None:
    if matched is None:
        return None
    return matched.rules.get(WEBSOCKET if scope["type"] == "websocket" else scope["method"])


def _no_such(matched: Matched | None, scope: Scope) -> GreenroomError:
    path = scope["path"][:200]
    methods = [name for name in (matched.rules if matched else ()) if name != WEBSOCKET]
    if not methods or scope["type"] == "websocket":
        return NotFoundError(f"there is no {path} in this API")
    allow = ", ".join(methods)
    return WrongMethodError(f"{path} takes {allow}, not {scope['method']}", allow=allow)


class _Body:
    """A request's body, which must come steadily and end in time to be below ``limit`` bytes."""

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._declared = _header(scope, b"content-length")
        self._receive = receive
        self._limit = limit
        self._seen = 0
        self._whole = False

    def too_large_from_the_start(self) -> bool:
        # What is not a number never gets here: the server refuses it.
        return self._declared is not None and int(self._declared) > self._limit

    def too_large(self) -> TooLargeError:
        return TooLargeError(f"the body may have {self._limit} bytes here", limit=self._limit)

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await self._receive()
        except TimeoutError:
            slow = SlowRequestError(f"nothing of the body came for {BODY_S:g} s")
            raise Refused(slow) from None
        self._seen += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._seen > self._limit:
            raise Refused(self.too_large())
        return message
