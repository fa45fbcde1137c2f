"""A lease goes to another holder: the same claim and container, a new token.

From the new token on, every operation with the old one is refused; what runs goes on.
"""

from __future__ import annotations

from greenroom.core.errors import FencedError, NotFoundError, UsageError
from greenroom.core.ledger import Ledger, Slot
from greenroom.core.messages import Claimed, ClaimRequest, TransferReply, TransferRequest
from greenroom.core.names import check_claim_id, check_holder, container_workflow_id


def check(ledger: Ledger, request: TransferRequest) -> Slot:
    """The slot whose lease would go to another holder; changes nothing.

    Raises UsageError (no holder, or a workflow's own claim), NotFoundError (no such live claim),
    FencedError (another token).
    """
    check_claim_id(request.claim_id)
    if not check_holder(request.holder):
        raise UsageError("a transfer names the new holder")
    slot = ledger.slot_of(request.claim_id)
    if slot is None or slot.lease is None:
        ended = ledger.find_ended(request.claim_id)
        told = f"ended: {ended[1]}" if ended else f"is not known to pool {ledger.pool}"
        raise NotFoundError(f"claim {request.claim_id} {told}")
    if slot.ending is not None:
        raise NotFoundError(f"claim {request.claim_id} is ending: {slot.ending}")
    if request.token != slot.lease.token and not _is_done(slot, request):
        raise FencedError(f"token {request.token} is not that of claim {request.claim_id}")
    if slot.brought is not None and slot.brought.reply_to:
        raise UsageError(
            f"claim {request.claim_id} is held by the workflow {slot.brought.reply_to}, which "
            "uses and ends it: it cannot be transferred"
        )
    return slot


def transfer(ledger: Ledger, request: TransferRequest) -> TransferReply:
    """Give the lease a new holder and token, and tell its container. Raises as ``check``.

    The same request again, whose answer was lost, gets the same answer.
    """
    slot = check(ledger, request)
    lease = slot.lease
    if lease is None:
        raise NotFoundError(f"claim {request.claim_id} is not known to pool {ledger.pool}")
    if _is_done(slot, request):
        return TransferReply(lease=lease)
    passed = lease.model_copy(update={"holder": request.holder, "token": ledger.next_token()})
    slot.lease, slot.transferred_from = passed, lease.token
    slot.sent_seq += 1
    ident = container_workflow_id(ledger.pool, slot.container)
    told = Claimed(seq=slot.sent_seq, lease=passed, transferred=True, brought=slot.brought)
    ledger.post("signal", ident, "claimed", told)
    return TransferReply(lease=passed)


def check_not_transferred(slot: Slot, request: ClaimRequest) -> None:
    """Refuse the first holder's claim asked again: its answer would be the new holder's token.

    Who has that token may say that the container is dead. Raises FencedError.
    """
    lease = slot.lease
    if lease is None or not slot.transferred_from or request.corpse_token == lease.token:
        return
    raise FencedError(f"claim {request.claim_id} was transferred to {lease.holder}")


def _is_done(slot: Slot, request: TransferRequest) -> bool:
    return (
        slot.lease is not None
        and slot.transferred_from == request.token != 0
        and slot.lease.holder == request.holder
    )
