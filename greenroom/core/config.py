"""What a pool file says: the model of section 11 of the design, with units and bounds.

``greenroom.poolfile`` reads YAML into it and turns its errors into lines of the file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from greenroom.core.errors import UsageError
from greenroom.core.names import check_pool_name
from greenroom.core.policy import parse_endpoint

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"k": 1024, "m": 1024**2, "g": 1024**3}
PRESETS = ("python", "node", "debian")
"""Names in ``network`` that stand for the host's own package registries."""

PLANNED = {
    "build_image": "image builds from a Dockerfile",
    "freshness": "refresh by polling and age limits",
    "services": "services beside the container",
    "secrets": "provisioning credentials by name",
    "runtime": "other container runtimes",
    "schedule": "sizes by schedule",
    "size.target_hit_rate": "sizing by the wanted hit rate",
    "size.schedules": "sizes by schedule",
    "size.buffer": "a buffer on demand",
    "git.depth": "shallow clones",
    "git.filter": "partial clones",
    "git.submodules": "submodules",
    "git.lfs": "LFS",
}
"""Designed keys that are not built yet, with what they will do; refused as planned."""
LEAST_HEARTBEAT_S = 1.0
MOST_SAVED = 512 * 1024**2
"""Bytes that are kept of one claim's work when the pool file does not say."""


def duration(value: object) -> object:
    """Seconds from ``90s``, ``5m``, ``1h``, ``2d`` or a number of seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value.strip())
        if not found:
            raise ValueError("write a time with its unit, such as 90s, 5m, 1h or 2d")
        return float(found[1]) * _SECONDS[found[2]]
    return value


def size_in_bytes(value: object) -> object:
    """Bytes from ``512m``, ``4g``, ``64k`` or a number of bytes."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg])(i?b)?", value.strip().lower())
        if not found:
            raise ValueError("write a size with its unit, such as 512m or 4g")
        return int(float(found[1]) * _BYTES[found[2]])
    return value


Seconds = Annotated[float, BeforeValidator(duration, json_schema_input_type=float | str)]
Bytes = Annotated[int, BeforeValidator(size_in_bytes, json_schema_input_type=int | str)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Size(_Strict):
    """How many containers: ``min`` ready ones are kept, ``max`` bounds all live ones."""

    min: int = Field(2, ge=0, le=1000, description="ready containers that the pool keeps")
    max: int = Field(10, ge=1, le=1000, description="live containers at most, claimed ones too")

    @model_validator(mode="before")
    @classmethod
    def _grow(cls, value: object) -> object:
        if isinstance(value, dict) and "max" not in value and isinstance(value.get("min"), int):
            return {**value, "max": max(10, 2 * value["min"])}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Size:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class LeaseTerms(_Strict):
    """How long a claim lives when it does not say, and at most; when it counts as given up."""

    ttl: Seconds = Field(3600, ge=1, le=7 * 86400, description="a claim's life by default")
    max_ttl: Seconds = Field(86400, ge=1, le=30 * 86400, description="the longest life allowed")
    max_hold: Seconds = Field(
        86400, ge=1, le=30 * 86400, description="the longest life of a claim that is held"
    )
    heartbeat: Seconds = Field(
        0, ge=0, le=86400, description="how often a claim's holder must be heard of; 0: never"
    )
    grace: Seconds = Field(
        30, ge=0, le=86400, description="how much later than that before the claim is given up"
    )
    warn: Seconds = Field(
        0, ge=0, le=86400, description="how long before its end a holder is warned; 0: not"
    )

    @model_validator(mode="after")
    def _ordered(self) -> LeaseTerms:
        if self.max_ttl < self.ttl:
            raise ValueError("max_ttl is below ttl")
        if 0 < self.heartbeat < LEAST_HEARTBEAT_S:
            raise ValueError(f"a heartbeat is 0 (none) or at least {LEAST_HEARTBEAT_S:g}s")
        return self


class SavedTerms(_Strict):
    """How much of the work of ended claims is kept, and how long."""

    keep: Seconds = Field(7 * 86400, ge=60, le=3650 * 86400, description="how long it is kept")
    max_size: Bytes = Field(MOST_SAVED, ge=65536, description="one claim's saved work at most")
    max_total: Bytes = Field(
        10 * 1024**3, ge=65536, description="the pool's saved work at most; the oldest goes first"
    )


class GitIdentity(_Strict):
    """Whose commits they are that name nobody else; a repository's own configuration wins."""

    name: str = Field(
        "", max_length=200, description="author of commits in claims; omitted: the holder"
    )
    email: str = Field(
        "", max_length=200, description="its address; omitted: CLAIM@greenroom.invalid"
    )

    @field_validator("name", "email")
    @classmethod
    def _plain(cls, value: str) -> str:
        if re.search(r"[\x00-\x1f\x7f<>]", value):
            raise ValueError("write plain text without < and >")
        return value


class Claims(_Strict):
    """How many claims may wait, and how many one holder may have at once."""

    queue: int = Field(500, ge=0, le=2000, description="claims that may wait at once")
    per_holder: int | None = Field(
        None, ge=1, le=1000, description="live claims of one holder at most; null: no bound"
    )


class Network(_Strict):
    """Whom a container may reach while it is prepared and while it is claimed."""

    provision: tuple[str, ...] = Field(
        (), description="presets (python, node, debian), name, name:port or address:port"
    )
    task: tuple[str, ...] = Field((), description="the same, for claimed containers")

    @field_validator("provision", "task")
    @classmethod
    def _entries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if entry not in PRESETS:
                try:
                    parse_endpoint(entry)
                except UsageError as error:
                    raise ValueError(error.message) from error
        return value


class Limits(_Strict):
    """What one container may use."""

    cpus: float = Field(2, gt=0, le=256, description="CPUs, fractions allowed")
    memory: Bytes = Field(4 * 1024**3, ge=6 * 1024**2, description="memory, swap included")
    pids: int = Field(512, ge=16, le=4_194_304, description="processes and threads")
    personal: Bytes = Field(16 * 1024**2, ge=65536, description="personal files, in memory")


class Timeouts(_Strict):
    """How long each step of preparing may take before it counts as hung."""

    clone: Seconds = Field(600, ge=1, description="fetch and check out")
    system: Seconds = Field(1800, ge=1, description="each system line")
    install: Seconds = Field(1800, ge=1, description="each install or sync line")
    build: Seconds = Field(1800, ge=1, description="each build line")
    verify: Seconds = Field(900, ge=1, description="each verify line")
    hook: Seconds = Field(300, ge=1, description="each claim hook")


class Hooks(_Strict):
    """What runs in a container once it is claimed, as its user and with the claimed policy."""

    claim: tuple[str, ...] = Field((), description="lines run in a container once it is claimed")
    wait_for: Literal["ready", "hooks"] = Field(
        "hooks", description="`exec` waits for the claim's lines (`hooks`) or does not (`ready`)"
    )

    @field_validator("claim", mode="before")
    @classmethod
    def _claim_lines(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError("write a list of lines, such as [make seed]")  # noqa: TRY004 pydantic's way
        return value


class PoolConfig(_Strict):
    """One pool. ``install`` None means: chosen from the lockfiles that are there."""

    name: str = Field(description="the pool's name")
    repo: str = Field(description="git URL, or the path of a repository on the host")
    ref: str = Field("HEAD", description="branch, tag or HEAD that the pool follows")
    image: str = Field("greenroom/base", description="the image that preparation starts from")
    system: tuple[str, ...] = Field((), description="lines run as root in the builder")
    install: tuple[str, ...] | None = Field(None, description="lines that install dependencies")
    sync: tuple[str, ...] | None = Field(
        None, description="quick lines that bring installed dependencies up to date, offline"
    )
    build: tuple[str, ...] = Field((), description="lines that make artefacts")
    verify: tuple[str, ...] = Field((), description="lines that prove a snapshot, as users get it")
    lockfiles: tuple[str, ...] | None = Field(
        None, description="files that decide the dependencies; omitted: the well-known names"
    )
    inputs: tuple[str, ...] = Field((), description="further files, as globs, that decide them")
    env: dict[str, str] = Field(default_factory=dict, description="environment of every line")
    size: Size = Field(default_factory=lambda: Size(min=2, max=10))
    lease: LeaseTerms = Field(default_factory=LeaseTerms)
    saved: SavedTerms = Field(default_factory=SavedTerms)
    git: GitIdentity = Field(default_factory=GitIdentity)
    claims: Claims = Field(default_factory=lambda: Claims(queue=500, per_holder=None))
    network: Network = Field(default_factory=lambda: Network(provision=(), task=()))
    limits: Limits = Field(default_factory=Limits)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    hooks: Hooks = Field(default_factory=lambda: Hooks(claim=(), wait_for="hooks"))
    trust_host_ca: bool = Field(False, description="bring the host's CA bundle in")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_pool_name(value)
        except UsageError as error:
            raise ValueError(error.message) from error

    @field_validator("repo")
    @classmethod
    def _repo(cls, value: str) -> str:
        if not value or value.startswith("-"):
            raise ValueError("write a git URL or the path of a repository")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:[^/]*@", value):
            # It would stand in every history, in `status` and in the work tree's configuration.
            raise ValueError(
                "leave the password out; give it to this host's git (credential.helper, ~/.netrc)"
            )
        return value

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        # git check-ref-format: no leading dash, no "..", no white space or glob characters.
        if not re.fullmatch(r"(?!-)(?!.*\.\.)[^\s~^:?*\[\\\x00-\x1f]{1,200}", value):
            raise ValueError("write a branch, a tag or HEAD")
        return value

    @field_validator("system", "install", "sync", "build", "verify", "inputs", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError("write a list of lines, such as [make build]")  # noqa: TRY004 pydantic's way
        return value


def changes(old: PoolConfig, new: PoolConfig) -> list[str]:
    """One line ``key: old → new`` per difference, keys dotted, sorted; empty when equal."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and key != "env":
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
