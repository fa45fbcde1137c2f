"""Keeps the work of an ended claim: what was committed, and what was not.

The stopped container's file system becomes a throw-away image; git runs in a fresh, hardened
container of that image which has no network, no personal files and nobody in it. Only files with
the expected names are read back, as data, from a tar stream.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from activities.boundary import check_cancelled
from activities.context import HostContext
from activities.engine import Exec, Json
from activities.profiles import (
    Labels,
    Shape,
    docker_name,
    hardened,
    label_map,
    name_of,
    new_ident,
)
from activities.slotfiles import locked_slot, read_slot, write_slot
from activities.worktree import worktree_mark
from greenroom.core.config import Limits
from greenroom.core.errors import EngineError, PreparationError
from greenroom.core.orders import EndInput
from greenroom.core.records import SavedWork
from greenroom.core.slotfile import SlotRecord

_TIME_LIMIT_S = 600.0
FILES = ("work.bundle", "work.patch", "commits.txt", "changed.txt", "ignored.txt", "nested.tar")
SUMMARY = "saved.json"

SCRIPT = r"""
set -eu
base=$1 out=$2 most=$3 claim=$4
export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME=greenroom GIT_AUTHOR_EMAIL=greenroom@localhost
export GIT_COMMITTER_NAME=greenroom GIT_COMMITTER_EMAIL=greenroom@localhost
export GIT_OPTIONAL_LOCKS=0 GIT_LFS_SKIP_SMUDGE=1 GIT_PAGER=cat
umask 077
mkdir "$out"
ulimit -f "$((most / 512))"
git() {
    command git -c "safe.directory=$PWD" -c core.hooksPath=/dev/null -c core.fsmonitor=false \
        -c core.untrackedCache=false -c gc.auto=0 -c commit.gpgSign=false \
        -c core.attributesFile=/dev/null "$@"
}
index=$(git rev-parse --git-path index)
if [ -e "$index" ]; then cp "$index" "$out/index"; fi
export GIT_INDEX_FILE="$out/index"
head=$(git rev-parse -q --verify 'HEAD^{commit}' || echo "$base")
git add --all -- . 2>"$out/add.err" || { cat "$out/add.err" >&2; exit 70; }
tree=$(git write-tree)
work=$head
if [ "$tree" != "$(git rev-parse "$head^{tree}")" ]; then
    work=$(git commit-tree "$tree" -p "$head" -m "greenroom: uncommitted work of claim $claim")
fi
git update-ref refs/greenroom/saved "$work"
stash=
if git rev-parse -q --verify refs/stash >/dev/null; then stash=refs/stash; fi
count=$(git rev-list --count refs/greenroom/saved --branches $stash --not "$base")
if [ "$count" != 0 ]; then
    git bundle create --quiet "$out/work.bundle" refs/greenroom/saved --branches $stash \
        --not "$base"
    git bundle verify --quiet "$out/work.bundle" >/dev/null
fi
if [ "$work" != "$base" ]; then
    git diff --binary --full-index --no-ext-diff --no-textconv --no-color "$base" "$work" \
        > "$out/work.patch"
fi
nested=$(git ls-files --stage | sed -n 's/^160000 [0-9a-f]* [0-3]\t//p')
lost=
if [ -n "$nested" ]; then
    known=$(git ls-tree -r "$base" | sed -n 's/^160000 commit [0-9a-f]*\t//p')
    lost=$(printf '%s\n' "$nested" | while IFS= read -r one; do
        printf '%s\n' "$known" | grep -qxF -- "$one" || printf '%s\n' "$one"
    done)
    if [ -n "$lost" ]; then
        printf '%s\n' "$lost" | tar --create --file "$out/nested.tar" --verbatim-files-from \
            --files-from -
    fi
fi
git ls-files --others --ignored --exclude-standard --directory | head -c 1000000 \
    > "$out/ignored.txt"
git log --no-color --no-decorate --format='%h %an: %s' "$head" --branches $stash --not "$base" \
    | head -c 1000000 > "$out/commits.txt"
git diff --name-status --no-renames --no-ext-diff "$base" "$work" | head -c 1000000 \
    > "$out/changed.txt"
changed=$(git diff --name-only --no-ext-diff "$base" "$work" | wc -l)
commits=$(git rev-list --count "$head" --branches $stash --not "$base")
rm -f "$out/index" "$out/add.err"
echo "greenroom-result $count $commits $changed"
"""
"""Leaves in ``out`` what differs from ``base``; its last line says revisions, commits, changes."""


@dataclass(frozen=True)
class _Result:
    revisions: int
    commits: int
    changed: int


def save_work(ctx: HostContext, asked: EndInput) -> SavedWork:
    """Keep what the claim left; idempotent by the container.

    A failure that would repeat keeps the stopped container and is an answer (``unsaved``).
    Raises EngineError for one that may pass.
    """
    record = read_slot(ctx.paths, asked.container)
    if not asked.claim_id or record is None:
        return SavedWork(state="discarded", detail="the container was not claimed, or is gone")
    if not asked.save:
        return SavedWork(state="discarded", detail="as asked")
    known = _already(ctx, asked)
    if known is not None:
        return known
    seen = ctx.engine.inspect(record.docker_id or name_of(ctx, record))
    if seen is None:
        return SavedWork(state="discarded", detail="the container was removed by somebody else")
    try:
        return _save(ctx, asked, record)
    except PreparationError as error:
        detail = f"{error.message} {error.details.get('tail', '')}".strip()[:2000]
        with locked_slot(ctx.paths, asked.container) as now:
            if now is not None:
                write_slot(ctx.paths, now.model_copy(update={"unsaved": detail}))
        return SavedWork(state="unsaved", detail=detail)


def _save(ctx: HostContext, asked: EndInput, record: SlotRecord) -> SavedWork:
    mark = record.worktree_mark
    if mark and mark == worktree_mark(ctx.engine, record.docker_id, record.workdir):
        return _keep(ctx, asked, record, SavedWork(state="clean", detail="nothing was changed"))
    place = ctx.paths.saved_claim(record.pool, asked.claim_id)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = place.parent / f".{asked.claim_id}.{secrets.token_hex(4)}"
    fresh.mkdir(mode=0o700)
    try:
        result = _in_saver(ctx, asked, (record, fresh))
        if result.revisions == 0:
            return _keep(ctx, asked, record, SavedWork(state="clean"))
        shutil.rmtree(place, ignore_errors=True)  # of an earlier try on this claim
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone when it was kept
    files = tuple(sorted(path.name for path in place.iterdir()))
    saved = SavedWork(
        state="saved",
        path=str(place),
        files=files,
        commits=result.commits,
        changed=result.changed,
    )
    return _keep(ctx, asked, record, saved)


def _in_saver(ctx: HostContext, asked: EndInput, at: tuple[SlotRecord, Path]) -> _Result:
    """Run git on a copy and fetch what it made. Raises PreparationError, EngineError."""
    record, place = at
    labels = Labels(record.pool, "saver", record.container, record.workflow_id, record.fingerprint)
    image = ctx.engine.commit(record.docker_id, {"Labels": label_map(ctx, labels)})
    name = docker_name(ctx, "saver", new_ident())
    try:
        limits = Limits.model_validate({"cpus": 1, "memory": "1g", "pids": 256})
        shape = Shape(image, labels, limits, workdir=record.workdir, user=_user(record))
        ctx.engine.create(name, hardened(ctx, shape))
        ctx.engine.start(name)
        out = f"/var/tmp/greenroom-{secrets.token_hex(16)}"  # noqa: S108  (nobody can foresee it)
        parameters = (record.commit, out, str(record.most_saved), asked.claim_id)
        command = Exec(
            container=name,
            command=("/bin/sh", "-c", SCRIPT, "greenroom", *parameters),
            user=_user(record),
            workdir=record.workdir,
            environment={"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"},
        )
        deadline = time.monotonic() + _TIME_LIMIT_S

        def tick() -> None:
            check_cancelled()
            if time.monotonic() > deadline:
                raise PreparationError("saving took too long", step="save")

        done = ctx.engine.capture(command, tick)
        if done.code != 0:
            raise PreparationError(
                f"git could not save the work (code {done.code})",
                step="save",
                tail=done.stderr[-2000:],
            )
        result = _parse(done.stdout)
        with ctx.engine.get_archive(name, out) as stream:
            _read_back(stream, place, record.most_saved)
        return result
    finally:
        ctx.engine.remove(name)
        ctx.engine.remove_image(image)


def _parse(stdout: str) -> _Result:
    words = stdout.strip().rpartition("\n")[2].split()
    if (
        len(words) != 4
        or words[0] != "greenroom-result"
        or not all(word.isdigit() for word in words[1:])
    ):
        raise PreparationError("saving ended without a result", step="save", tail=stdout[-500:])
    return _Result(*(int(word) for word in words[1:]))


def _read_back(stream: IO[bytes], place: Path, most: int) -> None:
    """Take the expected files out of the tar, as data. Raises PreparationError past the cap."""
    room = most
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = Path(member.name).name
            if name not in FILES or not member.isreg() or member.name.count("/") != 1:
                continue
            room -= member.size
            if room < 0:
                raise PreparationError(
                    f"the work is larger than saved.max_size ({most >> 10} KiB)",
                    step="save",
                )
            source = archive.extractfile(member)
            if source is None:
                continue
            fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as target:
                shutil.copyfileobj(source, target)


def _user(record: SlotRecord) -> str:
    return f"{record.uid}:{record.gid}"


def _keep(ctx: HostContext, asked: EndInput, record: SlotRecord, saved: SavedWork) -> SavedWork:
    """Write the summary; it is also what makes saving idempotent."""
    place = ctx.paths.saved_claim(record.pool, asked.claim_id)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    summary: Json = {
        **saved.model_dump(),
        "claim_id": asked.claim_id,
        "pool": record.pool,
        "container": record.container,
        "base": record.commit,
        "reason": str(asked.reason),
        "at": time.time(),
    }
    fresh = place / f".{secrets.token_hex(4)}"
    fresh.write_text(json.dumps(summary, indent=1))
    fresh.replace(place / SUMMARY)
    return saved


def _already(ctx: HostContext, asked: EndInput) -> SavedWork | None:
    try:
        found = json.loads(
            (ctx.paths.saved_claim(asked.pool, asked.claim_id) / SUMMARY).read_text()
        )
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise EngineError(f"the summary of {asked.claim_id} is broken: {error}") from error
    return SavedWork.model_validate(found) if found.get("container") == asked.container else None
