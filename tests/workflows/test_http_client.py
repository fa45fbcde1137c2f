"""``greenroom.client`` over the API of a fake host: claims, commands, files, faults, both twins."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from greenroom.api import saved
from greenroom.api.claims import ClaimDocument
from greenroom.client import AsyncGreenroom, Greenroom
from greenroom.client.documents import Grant, SavedRecord, ShownWork
from greenroom.core.errors import (
    CommandError,
    CommandTimeoutError,
    ConflictError,
    EngineError,
    FencedError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.task_messages import RunResult
from tests.workflows.api_lab import ENGINE, ApiLab, serving
from tests.workflows.fake_engine import FakeEngine, engine
from tests.workflows.pools import Pool


@pytest_asyncio.fixture(loop_scope="session")
async def lab(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiLab]:
    async with serving(pool, tmp_path / "state") as lab:
        monkeypatch.setenv("GREENROOM_STATE", str(lab.state.paths.root))
        await pool.configure()
        await pool.until_ready(2)
        yield lab


@pytest_asyncio.fixture(loop_scope="session")
async def fake_engine(lab: ApiLab, tmp_path: Path) -> AsyncIterator[FakeEngine]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    async with engine(lab.state.paths.run / ENGINE, workspace) as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="session")
async def room(lab: ApiLab) -> AsyncIterator[AsyncGreenroom]:
    async with AsyncGreenroom() as room:
        yield room


def nothing_claimed(status: PoolStatus) -> bool:
    return not status.queue and not any(slot.claim_id for slot in status.containers)


async def drained(lab: ApiLab) -> None:
    """No container is ready, and none will be until ``refilled``."""
    lab.pool.host.gate("clone_in")
    for number in range(2):
        await lab.pool.claim(f"d{number}")


def refilled(lab: ApiLab) -> None:
    lab.pool.host.gates["clone_in"].set()


async def test_a_block_claims_arms_and_releases_with_the_work_saved(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    pool = room.pool(lab.pool.name)
    options = {"env": {"A": "1"}, "secrets": {"T": "s3cr3t"}, "files": {"f": b"\0\1"}}
    async with pool.claim(claim_id="b1", ttl=60, labels={"job": "7"}, **options) as claim:  # type: ignore[arg-type]
        assert (claim.id, claim.grant.warm, claim.grant.armed) == ("b1", True, True)
        personal = lab.host.personal["b1"]
        assert (personal.env, personal.secrets, personal.files) == (
            {"A": "1"}, {"T": "s3cr3t"}, {"f": b"\0\1"},
        )  # fmt: skip
        assert [one.claim_id for one in await room.claims()] == ["b1"]
        assert (await pool.status()).counts.claimed == 1
        assert [one.pool for one in await room.pools()] == [lab.pool.name]
        again = await pool.claim(claim_id="b1", ttl=60, labels={"job": "7"})
        found = await room.claim("b1")
        assert again.token == found.token == claim.token
        assert found.container == claim.container
        before = claim.expires_at
        assert await claim.extend(3000) == claim.expires_at > before + 2000
    assert [(end.claim_id, end.save) for end in lab.pool.host.ends] == [("b1", True)]
    released = await claim.release()
    assert released.saved is not None
    assert released.saved.state == "saved"


async def test_the_models_have_every_field_of_the_apis_documents() -> None:
    for theirs, ours in (
        (ClaimDocument, Grant),
        (saved.SavedClaim, SavedRecord),
        (saved.ShownWork, ShownWork),
    ):
        assert set(theirs.model_fields) <= set(ours.model_fields)


async def test_a_block_that_fails_saves_too_and_discard_does_not(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    pool = room.pool(lab.pool.name)
    with pytest.raises(ZeroDivisionError):
        async with pool.claim(claim_id="f1"):
            raise ZeroDivisionError
    async with pool.claim(claim_id="f2", discard=True):
        pass
    assert [(end.claim_id, end.save) for end in lab.pool.host.ends] == [("f1", True), ("f2", False)]


async def test_errors_are_those_of_the_one_hierarchy(lab: ApiLab, room: AsyncGreenroom) -> None:
    pool = room.pool(lab.pool.name)
    with pytest.raises(NotFoundError, match="no pool nowhere"):
        await room.pool("nowhere").status()
    with pytest.raises(UsageError, match="cannot be a claim id"):
        await pool.claim(claim_id="a/b")
    with pytest.raises(UsageError, match="ttl_s"):
        await pool.claim(ttl=1e9)
    await pool.pause()
    await pool.claim(claim_id="e1")
    with pytest.raises(ConflictError):
        await pool.claim(claim_id="e1", holder="another")
    await pool.claim()
    with pytest.raises(NoContainerError) as caught:
        await pool.claim(wait=0)
    assert caught.value.details == {"miss_reason": "paused"}
    await pool.resume()


async def test_a_claim_without_an_id_that_fails_is_given_back(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    pool = room.pool(lab.pool.name)
    lab.host.trouble = EngineError("Docker does not answer")
    with pytest.raises(EngineError):
        await pool.claim()
    await lab.pool.until(nothing_claimed)
    with pytest.raises(EngineError):
        await pool.claim(claim_id="kept")
    lab.host.trouble = None
    assert (await pool.claim(claim_id="kept")).id == "kept"


async def test_a_cancelled_wait_leaves_the_queue_and_tells_its_place(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    await drained(lab)
    places: asyncio.Queue[int] = asyncio.Queue()
    pool = room.pool(lab.pool.name)
    waiting = asyncio.create_task(
        pool.claim(wait=300, on_queued=lambda place: places.put_nowait(place.position)).take()
    )
    assert await places.get() == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await lab.pool.until(lambda status: status.queue == 0)
    refilled(lab)


async def test_a_cancelled_block_and_a_cancelled_claim_hold_nothing(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with room.pool(lab.pool.name).claim():
            inside.set()
            await asyncio.Event().wait()

    for entered in (True, False):
        inside.clear()
        task = asyncio.create_task(work())
        # Not entered: the claim is asked for, and its answer has no receiver any more.
        await (inside.wait() if entered else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lab.pool.until(nothing_claimed)


# ── keeping, giving away, groups, saved work ─────────────────────────────────────────────────


def end(lab: ApiLab, container: str, reason: str) -> None:
    """As the host does when a lease ends."""
    slot = lab.host.slots[container]
    assert slot.lease is not None
    ended = slot.lease.model_copy(update={"ended": True, "end_reason": reason})
    lab.host.slots[container] = slot.model_copy(update={"lease": ended})


async def test_an_open_block_beats_and_a_lost_claim_is_told(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    async with room.pool(lab.pool.name).claim(claim_id="k1", heartbeat=1.0, priority=3) as claim:
        beating = claim._beating
        assert beating is not None
        await lab.pool.until_true(lambda: len(lab.host.beats) >= 2)
        assert set(lab.host.beats) == {claim.container}
        end(lab, claim.container, "abandoned")
        await beating
        for call in (claim.exec(["true"]), claim.read("x"), claim.extend(60), claim.beat()):
            with pytest.raises(NotFoundError, match="ended: abandoned"):
                await call
    async with room.pool(lab.pool.name).claim(heartbeat=1.0) as claim:
        beating = claim._beating
    assert beating is not None
    assert beating.cancelled()


async def test_a_hold_and_a_transfer(lab: ApiLab, room: AsyncGreenroom) -> None:
    async with room.pool(lab.pool.name).claim(claim_id="t1", heartbeat=30) as claim:
        before = claim.expires_at
        assert await claim.hold(7200) == claim.expires_at > before
        with pytest.raises(UsageError, match=r"lease\.max_hold"):
            await claim.hold(2 * 86400)
        old, token = claim.token, await claim.transfer("bob")
        assert token > old
        for call in (claim.exec(["true"]), claim.hold(60), claim.transfer("eve"), claim.release()):
            with pytest.raises(FencedError, match="was given to bob"):
                await call
    # Leaving the block took nothing from bob.
    theirs = await room.claim("t1")
    assert (theirs.token, theirs.container) == (token, claim.container)
    await theirs.extend(300)
    await theirs.release()


async def test_a_group_is_taken_released_and_asked_for_again_as_a_whole(
    lab: ApiLab, room: AsyncGreenroom, wire: tuple[str, Wire]
) -> None:
    url, proxy = wire
    async with AsyncGreenroom(url) as far:
        proxy.losing = 1
        async with far.pool(lab.pool.name).claim_many(2, claim_id="g") as claims:
            assert [claim.id for claim in claims] == ["g.1", "g.2"]
            assert (await lab.pool.status()).counts.claimed == 2
            again = await room.pool(lab.pool.name).claim_many(2, claim_id="g")
            assert [one.token for one in again] == [one.token for one in claims]
    assert proxy.asked.count(b"POST /v1/pools/") == 2
    await lab.pool.until(nothing_claimed)
    assert sorted(end.claim_id for end in lab.pool.host.ends) == ["g.1", "g.2"]


async def test_a_group_that_nobody_waits_for_any_more_is_given_back(
    lab: ApiLab, room: AsyncGreenroom
) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with room.pool(lab.pool.name).claim_many(2, partial=True):
            inside.set()
            await asyncio.Event().wait()

    for entered in (True, False):
        await lab.pool.until_ready(2)
        inside.clear()
        task = asyncio.create_task(work())
        await (inside.wait() if entered else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lab.pool.until(nothing_claimed)


async def test_saved_work_is_listed_shown_exported_and_deleted(
    lab: ApiLab, room: AsyncGreenroom, tmp_path: Path
) -> None:
    place = lab.state.paths.saved_claim(lab.pool.name, "s1")
    place.mkdir(parents=True)
    (place / "saved.json").write_text(json.dumps({"state": "saved", "changed": 1}))
    (place / "changed.txt").write_text("M\ta.txt\n")
    (work,) = await room.saved()
    assert (work.record.claim_id, work.record.changed) == ("s1", 1)
    assert await room.saved("another") == []
    assert (await work.show()).changed_files == ("M\ta.txt",)
    await work.export(tmp_path / "out.tar.gz")
    with tarfile.open(tmp_path / "out.tar.gz") as packed:
        assert sorted(packed.getnames()) == ["changed.txt", "saved.json"]
    with pytest.raises(UsageError, match="cannot be written"):
        await work.export(tmp_path / "none" / "out.tar.gz")
    await work.delete()
    await work.delete()
    assert not place.exists()
    with pytest.raises(NotFoundError):
        await work.export(tmp_path / "again.tar.gz")
    assert [name for name in os.listdir(tmp_path) if "tar.gz" in name] == ["out.tar.gz"]  # noqa: PTH208


async def test_a_task_is_started_once_awaited_and_cancelled(
    lab: ApiLab, wire: tuple[str, Wire]
) -> None:
    host, (url, proxy) = lab.pool.host, wire
    async with AsyncGreenroom(url) as room:
        pool = room.pool(lab.pool.name)
        host.results["d1"] = RunResult(outcome="exited", exit_code=5)
        proxy.losing = 1
        task = await pool.start_task(["make", "it"], claim_id="d1", timeout=60)
        assert (await pool.task("d1").wait()).exit_code == 5
        assert [(run.command, run.timeout_s) for run in host.runs] == [(("make", "it"), 60)]
        with pytest.raises(ConflictError):
            await pool.start_task(["make", "it"], claim_id="d1")
        host.gate("run_task:d2")
        task = await pool.start_task(["sleep", "1000"], claim_id="d2")
        await lab.pool.until_true(lambda: len(host.runs) == 2)
        with pytest.raises(TimeoutError):
            await task.wait(timeout=0.05)
        await task.cancel()
        with pytest.raises(NotFoundError, match="canceled"):
            await task.wait()


async def test_a_claim_that_waits_is_no_live_claim(lab: ApiLab, room: AsyncGreenroom) -> None:
    await drained(lab)
    waiting = asyncio.create_task(room.pool(lab.pool.name).claim(claim_id="w", wait=300).take())
    await lab.pool.until(lambda status: status.queue == 1)
    assert {one.claim_id for one in await room.claims()} == {"d0", "d1"}
    with pytest.raises(NotFoundError, match="queued"):
        await room.claim("w")
    refilled(lab)
    await waiting


# ── commands and files ───────────────────────────────────────────────────────────────────────


async def test_commands_and_files(
    lab: ApiLab, room: AsyncGreenroom, fake_engine: FakeEngine
) -> None:
    async with room.pool(lab.pool.name).claim() as claim:
        done = await claim.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
        with pytest.raises(CommandError, match="exit code 3") as failed:
            await claim.exec(["sh", "-c", "echo why >&2; exit 3"], check=True)
        assert failed.value.stderr == "why\n"
        assert failed.value.details == {"exit_code": 3}
        done = await claim.exec(["sh", "-c", 'echo "$A"; pwd'], env={"A": "b c"})
        assert done.stdout == f"b c\n{fake_engine.workspace}\n"
        much = os.urandom(3_000_000)  # several windows of input
        assert (await claim.exec(["cat"], stdin=much)).stdout_bytes == much

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        assert (await claim.exec(["cat"], stdin=pieces())).stdout == "one two"
        await claim.write("/workspace/a/b c", "text")
        assert (fake_engine.workspace / "a" / "b c").read_text() == "text"
        await claim.write("/workspace/big", much)
        assert await claim.read("/workspace/big") == much
        await claim.write("empty", b"")  # relative to the work tree
        assert await claim.read("empty") == b""
        with pytest.raises(NotFoundError, match="there is no /workspace/none"):
            await claim.read("/workspace/none")
        with pytest.raises(UsageError, match="not a plain file"):
            await claim.read("/workspace/a")
        packed = io.BytesIO()
        await claim.get_archive("a", packed)
        await claim.put_archive("/workspace/copy", packed)
        assert (fake_engine.workspace / "copy" / "a" / "b c").read_text() == "text"
        with pytest.raises(UsageError):
            await claim.write("/proc/none", b"")
        with pytest.raises(UsageError, match="list of words"):
            await claim.exec("ls -l")


async def test_output_comes_as_it_is_made_and_leaving_early_kills(
    lab: ApiLab, room: AsyncGreenroom, fake_engine: FakeEngine
) -> None:
    async with room.pool(lab.pool.name).claim() as claim:
        script = "echo first; read line; echo $line >&2; exit 4"
        told: asyncio.Queue[bytes] = asyncio.Queue()

        async def answers() -> AsyncIterator[bytes]:
            yield await told.get()

        seen = []
        running = claim.stream(["sh", "-c", script], stdin=answers())
        with pytest.raises(UsageError, match="not ended"):
            running.exit_code  # noqa: B018
        async for chunk in running:
            seen.append((chunk.stream, chunk.text))
            if chunk.text == "first\n":
                told.put_nowait(b"second\n")
        assert seen == [("stdout", "first\n"), ("stderr", "second\n")]
        assert running.exit_code == 4
        async with claim.stream(["sh", "-c", "echo x; exec sleep 1000"]) as running:
            async for _ in running:
                break
        assert await fake_engine.processes[-1].wait() == -signal.SIGKILL


async def test_a_command_past_its_time_or_cancelled_is_killed(
    lab: ApiLab, room: AsyncGreenroom, fake_engine: FakeEngine
) -> None:
    async with room.pool(lab.pool.name).claim() as claim:
        with pytest.raises(CommandTimeoutError) as caught:
            await claim.exec(["sh", "-c", "echo before; exec sleep 1000"], timeout=0.5)
        assert caught.value.stdout == "before\n"
        assert await fake_engine.processes[-1].wait() == -signal.SIGKILL
        task = asyncio.create_task(claim.exec(["sleep", "1000"]))
        await lab.pool.until_true(lambda: len(fake_engine.processes) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await fake_engine.processes[-1].wait() == -signal.SIGKILL


async def test_what_gives_the_input_and_fails_is_not_lost(
    lab: ApiLab, room: AsyncGreenroom, fake_engine: FakeEngine
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    async with room.pool(lab.pool.name).claim() as claim:
        with pytest.raises(ZeroDivisionError):
            await claim.exec(["cat"], stdin=broken())


# ── over TCP, with answers that get lost ─────────────────────────────────────────────────────


class Wire:
    """A TCP port in front of the API's socket that loses the next ``losing`` answers."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.losing = 0
        self.lost: Callable[[], object] = lambda: None
        self.asked = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_unix_connection(str(self.target))
        up = asyncio.create_task(self._up(reader, below))
        while data := await above.read(65536):
            if self.losing:  # it is done, and nobody hears of it
                self.losing -= 1
                self.lost()
                break
            writer.write(data)
            await writer.drain()
        up.cancel()
        below.close()
        writer.close()

    async def _up(self, reader: asyncio.StreamReader, below: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.asked += data
            below.write(data)


@pytest_asyncio.fixture(loop_scope="session")
async def wire(lab: ApiLab) -> AsyncIterator[tuple[str, Wire]]:
    proxy = Wire(lab.state.paths.api_socket)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy
    server.close()


async def test_lost_answers_are_asked_for_again_under_the_same_id(
    lab: ApiLab, wire: tuple[str, Wire]
) -> None:
    url, proxy = wire
    async with AsyncGreenroom(url, "t0ken") as room:
        proxy.losing = 2
        claim = await room.pool(lab.pool.name).claim()
        assert claim.token == 1, "the third try got what the first was granted"
        assert (await lab.pool.status()).counts.claimed == 1
        saved = lab.state.paths.saved_claim(lab.pool.name, claim.id)
        saved.mkdir(parents=True)
        (saved / "saved.json").write_text('{"state": "saved", "changed": 2}')
        proxy.losing, proxy.lost = 1, lab.host.slots.clear  # as the host does at the end
        released = await claim.release()
        assert released.saved is not None
        assert released.saved.changed == 2
    assert proxy.asked.count(b"POST /v1/pools/") == 3
    assert proxy.asked.count(b"\r\nAuthorization: Bearer t0ken\r\n") >= 5


async def test_commands_go_over_tcp_too(
    lab: ApiLab, wire: tuple[str, Wire], fake_engine: FakeEngine
) -> None:
    async with AsyncGreenroom(wire[0]) as room, room.pool(lab.pool.name).claim() as claim:
        assert (await claim.exec(["echo", "far"])).stdout == "far\n"


# ── the blocking twin ────────────────────────────────────────────────────────────────────────


async def test_the_blocking_twin_does_the_same(lab: ApiLab, fake_engine: FakeEngine) -> None:
    def work() -> None:
        with Greenroom() as room:
            pool = room.pool(lab.pool.name)
            with pool.claim(claim_id="s1") as claim:
                assert claim.exec(["echo", "hi"], check=True).stdout == "hi\n"
                claim.write("/workspace/x", b"1")
                assert claim.read("/workspace/x") == b"1"
                running = claim.stream(["sh", "-c", "echo a; echo b >&2; exit 5"])
                assert {(chunk.stream, chunk.text) for chunk in running} == {
                    ("stdout", "a\n"), ("stderr", "b\n"),
                }  # fmt: skip
                assert running.exit_code == 5
                assert claim.extend(3000) > time.time() + 2000
                assert [one.claim_id for one in room.claims()] == ["s1"]
                assert room.claim("s1").token == claim.token
                packed = io.BytesIO()
                claim.get_archive("x", packed)
                claim.put_archive("copies", packed)
                assert claim.read("copies/x") == b"1"
                assert claim.hold(7200) == claim.beat() == claim.expires_at
            with pytest.raises(ZeroDivisionError), pool.claim(claim_id="s2"):
                raise ZeroDivisionError
            kept = pool.claim(claim_id="s3").take()
            with pytest.raises(CommandError):
                kept.exec(["false"], check=True)
            assert kept.release(discard=True).saved is not None
            with pool.claim_many(1, claim_id="s4", heartbeat=1.0) as (member,):
                deadline = time.monotonic() + 30
                while member.container not in lab.host.beats and time.monotonic() < deadline:
                    time.sleep(0.02)  # the loop of the client's own thread beats meanwhile
                assert member.container in lab.host.beats
                member.transfer("bob")
            room.claim("s4").release()
            assert room.saved() == []
            assert pool.status().pool == room.pools()[0].pool

    await asyncio.to_thread(work)
    ends = [(end.claim_id, end.save) for end in lab.pool.host.ends]
    assert ends == [("s1", True), ("s2", True), ("s3", False), ("s4", True)]


async def test_an_interrupted_program_holds_nothing(lab: ApiLab) -> None:
    program = (
        "import sys; from greenroom.client import Greenroom\n"
        "with Greenroom() as room, room.pool(sys.argv[1]).claim(wait=300) as claim:\n"
        "    print(claim.id, flush=True)\n"
        "    room.pool(sys.argv[1]).claim(wait=300, claim_id='second').take()\n"
    )
    await lab.pool.configure(size={"min": 1, "max": 1})
    await lab.pool.until(lambda status: len(status.containers) == 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, lab.pool.name,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await lab.pool.until(lambda status: status.queue == 1)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert b"KeyboardInterrupt" in err
    await lab.pool.until(nothing_claimed)
