"""What a claim brings along besides the terms of its lease; never a secret in the clear.

The rules of ``core.records`` hold: plain JSON, one model per message.
"""

from __future__ import annotations

from pydantic import Field

from greenroom.core.records import Message


class Brought(Message):
    """What follows a claim to whatever container it gets; values are sealed or names.

    ``sealed`` maps a name to a value that only the pool's host can open; ``host_secrets`` names
    secrets of the host; ``reply_to`` is a workflow that is told of the lease; ``brings`` says that
    the claim's API arms the personal part.
    """

    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()
    reply_to: str = ""
    brings: bool = False


def in_the_clear(given: object, refused: tuple[str, ...]) -> object:
    """A message without the values of ``refused`` fields; ``plain`` names those that it had.

    What was sent in the clear is refused later; its values must not be passed on meanwhile.
    """
    if not isinstance(given, dict):
        return given
    found = tuple(name for name in refused if given.get(name))
    if not found:
        return given
    kept = {name: value for name, value in given.items() if name not in found}
    return {**kept, "plain": found}
