"""Small makers of core values for tests: every default is valid, every call names what matters."""

from __future__ import annotations

from typing import Any

from greenroom.core import keeper
from greenroom.core.config import PoolConfig
from greenroom.core.ledger import Ledger
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import ClaimRequest, ContainerNews, NewsKind
from greenroom.core.names import ulid
from greenroom.core.plan import PoolSnapshot, SlotFacts, StreakFacts
from greenroom.core.records import SnapshotRecord, Source

NOW = 1_750_000_000.0


def make_config(**changes: Any) -> PoolConfig:
    return PoolConfig.model_validate({"name": "api", "repo": "/srv/repo", **changes})


def make_source(number: int = 1, **changes: Any) -> Source:
    values = {
        "commit": f"{number:040x}",
        "ref": "main",
        "mirror": "repo-0123456789",
        "dependencies": f"{number:020x}",
        "fingerprint": f"{number:020x}",
    }
    return Source.model_validate({**values, **changes})


def make_record(number: int = 1, **changes: Any) -> SnapshotRecord:
    values = {
        "source": make_source(number),
        "image_id": f"sha256:{number:064x}",
        "image_tag": f"greenroom/00000000/api:{number:012x}",
        "built_at": NOW - 60,
        "seconds": 30.0,
    }
    return SnapshotRecord.model_validate({**values, **changes})


def make_ledger(*, ready: int = 0, serving: int | None = 1, **changes: Any) -> Ledger:
    """A pool that serves snapshot ``serving`` with ``ready`` containers; settled, empty outbox."""
    config = changes.pop("config", None) or make_config()
    ledger = Ledger(pool=config.name, config=config, look=False, **changes)
    if serving is not None:
        ledger.serving = make_record(serving)
        ledger.wanted = ledger.serving.source
    for index in range(ready):
        add_ready(ledger, index)
    return ledger


def add_ready(ledger: Ledger, index: int, now: float = NOW) -> str:
    """One more ready container; its id."""
    container = ulid(now, index)
    keeper.enact(ledger, keeper.plan.Provision(1), now, iter([container]))
    ledger.outbox.clear()
    slot = ledger.slots[container]
    slot.state, slot.host, slot.docker_id = State.READY, "host-a", f"{index:064x}"
    return container


def make_request(claim_id: str = "c1", **changes: Any) -> ClaimRequest:
    return ClaimRequest.model_validate({"claim_id": claim_id, "issued_at": NOW, **changes})


def make_news(container: str, kind: NewsKind, seq: int, **changes: Any) -> ContainerNews:
    values = {"container": container, "seq": seq, "kind": kind, "at": NOW}
    return ContainerNews.model_validate({**values, **changes})


def slot_facts(name: str, state: State = State.READY, **changes: Any) -> SlotFacts:
    values: dict[str, Any] = {
        "since": NOW,
        "fresh": True,
        "ending": False,
        "deadline": None,
    }
    return SlotFacts(container=name, state=state, **{**values, **changes})


def pool_facts(*slots: SlotFacts, **changes: Any) -> PoolSnapshot:
    """A pool of 2 to 10 that serves what is wanted, with these containers."""
    values: dict[str, Any] = {
        "minimum": 2,
        "maximum": 10,
        "paused": False,
        "suspended": None,
        "queue": 0,
        "look": False,
        "looking": False,
        "wanted": "s1",
        "serving": "s1",
        "building": None,
        "build_deadline": None,
        "build_streak": StreakFacts(),
        "slot_streak": StreakFacts(),
    }
    return PoolSnapshot(slots=slots, **{**values, **changes})


__all__ = [
    "NOW",
    "EndReason",
    "add_ready",
    "make_config",
    "make_ledger",
    "make_news",
    "make_record",
    "make_request",
    "make_source",
    "pool_facts",
    "slot_facts",
]
