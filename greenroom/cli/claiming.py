"""Claiming and giving back, for ``claim`` and ``run``."""

from __future__ import annotations

from typing import Any

from greenroom.cli.http_client import PATIENCE_S, Api, Ask
from greenroom.cli.output import say
from greenroom.core.errors import BackendError, GreenroomError, NotFoundError
from greenroom.core.names import member_id
from greenroom.core.wire import url


def take(api: Api, pool: str, body: dict[str, Any], *, named: bool) -> dict[str, Any]:
    """The granted claim's document, or a group's. Whoever interrupts it holds nothing afterwards.

    ``named``: the caller gave its id, and so can ask again when something did not answer.
    """
    ask = Ask("POST", url("pools", pool, "claims"), body, timeout_s=body["wait_s"] + PATIENCE_S)
    try:
        granted: dict[str, Any] = api.ask(ask)
    except BaseException as error:
        if not isinstance(error, Exception):
            for claim_id in _names(body):
                give_back(api, pool, claim_id)
        elif isinstance(error, BackendError) and not named:
            # What did not answer the claim would not answer this either, so nobody waits for it:
            # the API gives it back when it can, else the lease ends by itself.
            for claim_id in _names(body):
                where = url("claims", claim_id, pool=pool, save=False, wait=False)
                api.tell(Ask("DELETE", where))
        raise
    return granted


def _names(body: dict[str, Any]) -> list[str]:
    """The ids of the claims that a request can be granted as."""
    claim_id, count = body["claim_id"], body["count"]
    return [claim_id] if count == 1 else [member_id(claim_id, n + 1) for n in range(count)]


def give_back(api: Api, pool: str, claim_id: str, *, save: bool = False) -> None:
    """Release without waiting for the end; a claim that is not there is given back already."""
    try:
        api.delete("claims", claim_id, pool=pool, save=save, wait=False)
    except NotFoundError:
        return
    except GreenroomError as error:
        say(f"greenroom: claim {claim_id} is not released ({error.message}); it ends by itself")
