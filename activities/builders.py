"""The builder of one snapshot: started, fed with the recipe's lines, committed to an image.

System lines run as root with Docker's default capabilities, all others as the container's user.
What they are given goes through each command's environment, never into the image.
"""

from __future__ import annotations

import io
import re
import tarfile

from activities.checkout import EXCLUDE_SCRIPT, checkout_of, git_access
from activities.containers import exec_environment, slot_exec
from activities.context import HostContext
from activities.engine import Exec, Json, no_tick
from activities.making import Making, make, take_away
from activities.people import (
    LABEL_USER,
    SETUP_SCRIPT,
    Person,
    find_person,
    read_small_file,
)
from activities.processes import kill_leftovers
from activities.profiles import LABEL_DEPENDENCIES, Labels, label_map, new_ident, own_label
from activities.registries import CA_IN_CONTAINER, Registries, host_ca_bundle
from activities.repos import find_image
from activities.slotfiles import all_slots, read_slot, write_slot
from activities.snapshots import newest_with_dependencies
from activities.steps import Line, run_line
from greenroom.core.config import PoolConfig
from greenroom.core.errors import NotFoundError, PreparationError
from greenroom.core.names import LABEL_CONTAINER, LABEL_FINGERPRINT, LABEL_KIND, LABEL_POOL
from greenroom.core.orders import BuilderCommit, BuilderRef, BuilderStep, CommittedImage
from greenroom.core.policy import Phase, plan_network
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import StepRecord
from greenroom.core.slotfile import SlotRecord

_ROOT = {"HOME": "/root", "USER": "root", "DEBIAN_FRONTEND": "noninteractive"}
_APT_INSTALL = re.compile(r"\bapt(-get)?\b[^;&|]*\binstall\b")
_APT_UPDATE = re.compile(r"\bapt(-get)?\b[^;&|]*\bupdate\b")
_DEFAULT_WORKDIR = "/workspace"


def start(ctx: HostContext, registries: Registries, asked: SnapshotInput) -> BuilderRef:
    """Make the builder; what an earlier try left is removed first.

    Raises PreparationError, EngineError, GateError.
    """
    config, source = asked.config, asked.source
    remove_leftovers(ctx, "builder", (asked.pool, source.fingerprint))
    base = find_image(ctx, config)
    image = _image_to_start_from(ctx, asked, base)
    workdir = str(base["Config"].get("WorkingDir") or "").rstrip("/") or _DEFAULT_WORKDIR
    plan = plan_network(registries.endpoints(config.network.provision, config.image), ())
    record = SlotRecord(
        container=new_ident(),
        pool=asked.pool,
        kind="builder",
        phase=Phase.PROVISION,
        policies=plan.policies,
        listeners=plan.listeners,
        hosts=plan.hosts,
        git=git_access(asked.pool, source),
        workdir=workdir,
        commit=source.commit,
        fingerprint=source.fingerprint,
        image_id=str(image["Id"]),
    )
    made = make(ctx, Making(record, config.limits))
    person = _set_up(ctx, made, base)
    write_slot(
        ctx.paths,
        made.model_copy(
            update={
                "user": person.user,
                "uid": person.uid,
                "gid": person.gid,
                "environment": person.environment,
            }
        ),
    )
    if config.trust_host_ca:
        _put_ca(ctx, made)
    ctx.paths.build_log(asked.pool, source.fingerprint).unlink(missing_ok=True)
    return BuilderRef(
        pool=asked.pool,
        builder=made.container,
        fingerprint=source.fingerprint,
        docker_id=made.docker_id,
    )


def step(ctx: HostContext, registries: Registries, asked: BuilderStep) -> StepRecord:
    """Run one line. Raises PreparationError, StepTimeoutError, EngineError."""
    record = _builder(ctx, asked.builder)
    config, source = asked.snapshot.config, asked.snapshot.source
    reused = image_dependencies(ctx, record.image_id) == source.dependencies
    if asked.step == "system" and reused:
        return StepRecord(name="system", line=config.system[asked.index], reused=True)
    if asked.step == "install" and reused:
        done = _sync(ctx, registries, asked, record)
        if done is not None:
            return done
    line = _line(ctx, registries, asked, record)
    seconds = run_line(ctx, line)
    return StepRecord(name=asked.step, line=line.text, seconds=round(seconds, 3))


def commit(ctx: HostContext, asked: BuilderCommit) -> CommittedImage:
    """Make the image. Raises PreparationError, EngineError."""
    record = _builder(ctx, asked.builder)
    source = asked.snapshot.source
    kill_leftovers(ctx.engine, record.docker_id)
    script = slot_exec(record, ("/bin/sh", "-c", EXCLUDE_SCRIPT, "greenroom"))
    done = ctx.engine.capture(script, no_tick)
    if done.code != 0:
        raise PreparationError(
            "the work tree could not be looked at before the snapshot",
            step="commit",
            tail=done.stderr[-2000:],
        )
    original = (find_image(ctx, asked.snapshot.config))["Config"]
    person = Person(record.user, record.uid, record.gid, record.environment.get("HOME", "/"))
    labels = Labels(record.pool, "snapshot", "", record.workflow_id, source.fingerprint)
    config: Json = {
        "Cmd": original.get("Cmd") or [],
        "Entrypoint": original.get("Entrypoint") or [],
        "WorkingDir": record.workdir,
        "Labels": {
            **label_map(ctx, labels),
            LABEL_USER: person.label,
            LABEL_DEPENDENCIES: source.dependencies,
        },
    }
    image_id = ctx.engine.commit(record.docker_id, config)
    image = ctx.engine.inspect_image(image_id) or {}
    return CommittedImage(image_id=str(image.get("Id", image_id)), size_bytes=int(image["Size"]))


def remove_leftovers(ctx: HostContext, kind: str, snapshot: tuple[str, str]) -> None:
    """Take away what earlier tries on this snapshot (pool and fingerprint) left.

    Another pool with the same recipe has the same fingerprint, and builds at the same time.
    """
    pool, fingerprint = snapshot
    labels = {
        **own_label(ctx),
        LABEL_KIND: kind,
        LABEL_POOL: pool,
        LABEL_FINGERPRINT: fingerprint,
    }
    found = {str(c["Labels"].get(LABEL_CONTAINER)) for c in ctx.engine.containers(labels)}
    for container in all_slots(ctx.paths):
        record = read_slot(ctx.paths, container)
        if record is None or record.kind != kind or record.pool != pool:
            continue
        if record.fingerprint == fingerprint:
            found.add(container)
    for container in found:
        take_away(ctx, kind, container)


def image_dependencies(ctx: HostContext, image_id: str) -> str:
    """The dependency fingerprint that an image was made with; empty for a foreign image."""
    image = ctx.engine.inspect_image(image_id) or {}
    return str((image.get("Config", {}).get("Labels") or {}).get(LABEL_DEPENDENCIES, ""))


def _image_to_start_from(ctx: HostContext, asked: SnapshotInput, base: Json) -> Json:
    config = base["Config"]
    workdir = str(config.get("WorkingDir") or _DEFAULT_WORKDIR)
    for volume in config.get("Volumes") or {}:
        if (workdir + "/").startswith(volume.rstrip("/") + "/") or volume.startswith("/home"):
            raise PreparationError(
                f"image {asked.config.image} has a VOLUME at {volume}, over the work tree or the "
                "home folder: what is prepared there would be lost; use an image without it",
                step="source",
            )
    found = newest_with_dependencies(ctx, asked.pool, asked.source.dependencies)
    return found[1] if found is not None else base


def _set_up(ctx: HostContext, record: SlotRecord, base: Json) -> Person:
    passwd, group = (
        read_small_file(ctx.engine, record.docker_id, path)
        for path in ("/etc/passwd", "/etc/group")
    )
    person = find_person(passwd, group, str(base["Config"].get("User") or ""))
    parameters = (person.user, str(person.uid), str(person.gid), person.home, record.workdir)
    done = ctx.engine.capture(
        Exec(
            container=record.docker_id,
            command=("/bin/sh", "-c", SETUP_SCRIPT, "greenroom", *parameters),
            user="0",
            workdir="/",
        ),
        no_tick,
    )
    if done.code != 0:
        raise PreparationError(
            f"the image cannot be used (code {done.code}): it needs a shell, mkdir, chown and grep",
            step="source",
            tail=done.stderr[-2000:],
        )
    return person


def _put_ca(ctx: HostContext, record: SlotRecord) -> None:
    bundle = host_ca_bundle()
    if not bundle:
        raise PreparationError(
            "trust_host_ca is on, but this host has no CA bundle; set SSL_CERT_FILE", step="source"
        )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(CA_IN_CONTAINER.lstrip("/"))
        member.size, member.mode = len(bundle), 0o644
        archive.addfile(member, io.BytesIO(bundle))
    ctx.engine.put_archive(record.docker_id, "/", packed.getvalue())


def _builder(ctx: HostContext, ref: BuilderRef) -> SlotRecord:
    record = read_slot(ctx.paths, ref.builder)
    if record is None or not record.docker_id:
        raise NotFoundError(f"builder {ref.builder} is not on this host any more")
    return record


def _sync(
    ctx: HostContext, registries: Registries, asked: BuilderStep, record: SlotRecord
) -> StepRecord | None:
    """Instead of the install lines, once: the quick ones. None when these did not do."""
    source = asked.snapshot.source
    if asked.index > 0:
        return StepRecord(name="install", line=source.install[asked.index], reused=True)
    seconds = 0.0
    for text in source.sync:
        line = _user_line(ctx, registries, asked, (record, "install", text))
        try:
            seconds += run_line(ctx, line)
        except PreparationError:
            return None  # the full line follows, and its failure is the one that counts
    said = "; ".join(source.sync)
    return StepRecord(name="install", line=said, seconds=round(seconds, 3), reused=True)


def _line(ctx: HostContext, registries: Registries, asked: BuilderStep, record: SlotRecord) -> Line:
    config, source = asked.snapshot.config, asked.snapshot.source
    log = ctx.paths.build_log(asked.builder.pool, asked.builder.fingerprint)
    if asked.step == "clone":
        checkout = checkout_of(config, source)
        return Line(
            step="clone",
            text=f"check out {source.commit[:12]} of {checkout.real}",
            command=slot_exec(record, checkout.command()),
            limit_s=config.timeouts.clone,
            log=log,
        )
    if asked.step == "system":
        text = config.system[asked.index]
        command = Exec(
            container=record.docker_id,
            command=("/bin/sh", "-ec", _with_lists(config, asked.index)),
            user="0",
            workdir=record.workdir,
            environment={**_environment(registries, config, record), **_ROOT},
        )
        return Line("system", text, command, config.timeouts.system, log)
    lines = source.install if asked.step == "install" else config.build
    return _user_line(ctx, registries, asked, (record, asked.step, lines[asked.index]))


def _user_line(
    ctx: HostContext,
    registries: Registries,
    asked: BuilderStep,
    what: tuple[SlotRecord, str, str],
) -> Line:
    record, name, text = what
    config = asked.snapshot.config
    environment = _environment(registries, config, record)
    timeouts = config.timeouts
    return Line(
        step=name,
        text=text,
        command=slot_exec(record, ("/bin/sh", "-ec", text), environment),
        limit_s=timeouts.install if name == "install" else timeouts.build,
        log=ctx.paths.build_log(asked.builder.pool, asked.builder.fingerprint),
    )


def _environment(registries: Registries, config: PoolConfig, record: SlotRecord) -> dict[str, str]:
    return {**exec_environment(record), **registries.environment(config), **config.env}


def _with_lists(config: PoolConfig, index: int) -> str:
    """A system line; the first that installs by apt gets its package lists first.

    Images come without lists, and the design's own example has no update line.
    """
    installs = [i for i, text in enumerate(config.system) if _APT_INSTALL.search(text)]
    updates = any(_APT_UPDATE.search(text) for text in config.system)
    text = config.system[index]
    if updates or not installs or index != installs[0]:
        return text
    return f"apt-get -q update\n{text}"
