"""The Python client on a real stack: real containers, their user, their work tree, their files."""

from __future__ import annotations

import time

import pytest

from greenroom.client import AsyncGreenroom
from greenroom.core.errors import CommandTimeoutError, NotFoundError
from tests.chaos import events as ev
from tests.e2e.stack import POOL, Watched

BINARY = bytes(range(256)) * 4096


async def test_claim_commands_files_and_the_saved_work(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_STATE", str(watched.stack.paths.root))
    personal = {"env": {"A": "b c"}, "secrets": {"TOKEN": "s3cr3t"}, "files": {"blob": BINARY}}
    async with AsyncGreenroom() as room:
        async with room.pool(POOL).claim(claim_id="library", **personal) as claim:  # type: ignore[arg-type]
            lease = (claim.id, claim.container, claim.token)
            at = time.time()
            watched.recorder.record(ev.Granted(at, POOL, *lease, claim.expires_at))
            done = await claim.exec(["sh", "-c", 'id -u; pwd; echo "$A $TOKEN"'], check=True)
            uid, where, told = done.stdout.splitlines()
            assert (uid != "0", where, told) == (True, "/workspace", "b c s3cr3t")
            assert await claim.read("/run/greenroom/files/blob") == BINARY
            await claim.write("/workspace/made/here.bin", BINARY)
            assert await claim.read("/workspace/made/here.bin") == BINARY
            with pytest.raises(CommandTimeoutError):
                await claim.exec(["sleep", "1000"], timeout=0.5)
            while (await claim.exec(["pgrep", "-f", "sleep 1000"])).exit_code == 0:
                pass  # it is being killed
            watched.recorder.record(ev.WorkWritten(at, claim.id, claim.container))
        released = await claim.release()
        assert released.saved is not None
        assert (released.saved.state, released.saved.changed) == ("saved", 1)
        at = time.time()
        watched.recorder.record(ev.Released(at, *lease), ev.Saved(at, *lease[:2], "saved"))
        with pytest.raises(NotFoundError):
            await claim.exec(["true"])
