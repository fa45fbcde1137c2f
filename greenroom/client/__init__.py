"""Greenroom over Temporal, for services of one's own: needs ``greenroom.core`` and no more."""

from greenroom.client.pool_client import (
    ANSWER_S,
    SAFE_IN_FLIGHT,
    SAVE_S,
    PoolClient,
    connect,
    ensure_watch,
)

__all__ = ["ANSWER_S", "SAFE_IN_FLIGHT", "SAVE_S", "PoolClient", "connect", "ensure_watch"]
