"""The presets ``python``, ``node`` and ``debian``: the registries that this host itself uses.

No registry is written down here. Addresses come from the host's own package clients (and, where
the host has none, from the clients inside the image), so that a corporate mirror is used without
being named in a pool file. Entries of the host that a container can never reach (files, loopback)
are left out.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from activities.engine import Engine
from activities.profiles import ask_image
from greenroom.core.config import PRESETS, PoolConfig
from greenroom.core.policy import BLIND_PORTS, Endpoint, canonical_host, merge, parse_endpoint
from greenroom.services.settings import Settings

CA_IN_CONTAINER = "/usr/local/share/greenroom/ca.crt"
_SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
)
_ASK_PIP = (
    "import json; from pip._internal.models.index import PyPI; "
    "print(json.dumps([PyPI.simple_url, 'https://' + PyPI.file_storage_domain]))"
)
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Preset:
    """Where a preset's tools may connect, and the variables that send them there.

    ``environment`` holds what differs from a tool's default; it may hold the host's credentials
    and so is for provisioning only, ``plain_environment`` is free of them.
    """

    endpoints: tuple[Endpoint, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def plain_environment(self) -> dict[str, str]:
        return {
            key: " ".join(without_credentials(url) for url in value.split())
            for key, value in self.environment.items()
        }


class Registries:
    """Reads the presets once per process (and per image). Safe to use from several threads."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._known: dict[tuple[str, str], Preset] = {}
        self._lock = threading.Lock()

    def endpoints(self, entries: tuple[str, ...], image: str) -> tuple[Endpoint, ...]:
        """The endpoints that ``network`` entries mean for containers of ``image``."""
        groups = [
            self.preset(entry, image).endpoints if entry in PRESETS else (parse_endpoint(entry),)
            for entry in entries
        ]
        return merge(*groups)

    def environment(self, config: PoolConfig) -> dict[str, str]:
        """The variables of provisioning lines; may hold the host's credentials."""
        found: dict[str, str] = {}
        for entry in config.network.provision:
            if entry in PRESETS:
                found.update(self.preset(entry, config.image).environment)
        return {**found, **ca_environment(config)}

    def plain_environment(self, config: PoolConfig) -> dict[str, str]:
        """The variables of claimed containers: no credentials."""
        found: dict[str, str] = {}
        for entry in config.network.task:
            if entry in PRESETS:
                found.update(self.preset(entry, config.image).plain_environment)
        return {**found, **ca_environment(config)}

    def preset(self, name: str, image: str) -> Preset:
        """One preset as it is for containers of ``image``. Raises EngineError."""
        key = (name, image if name in {"debian", "node"} else "")
        with self._lock:
            if key not in self._known:
                self._known[key] = self._read(name, image)
            return self._known[key]

    def _read(self, name: str, image: str) -> Preset:
        if name == "python":
            return python_preset(_ask_pip_config(), _ask_pip_defaults(), dict(os.environ))
        if name == "node":
            return node_preset(
                _output(["npm", "config", "get", "registry"])
                or self._in_image(image, "npm", "config", "get", "registry")
            )
        targets = ["apt-get", "indextargets", "--format", "$(SITE)"]
        return debian_preset(f"{_output(targets)}\n{self._in_image(image, *targets)}")

    def _in_image(self, image: str, *command: str) -> str:
        """What a command says in a throw-away container; empty where the image has no such tool."""
        return ask_image(self._engine, self._settings.install_id, image, command)


def python_preset(
    configured: dict[str, str], defaults: tuple[str, ...], environ: dict[str, str]
) -> Preset:
    """From ``pip config list`` (key to value), the client's default index and file host."""
    index = _last(configured, "index-url")
    extra = _last(configured, "extra-index-url").split()
    uv_index = environ.get("UV_DEFAULT_INDEX", "") or environ.get("UV_INDEX_URL", "")
    index = index or uv_index
    usable_extra = [url for url in extra if is_remote(url)]
    environment: dict[str, str] = {}
    if is_remote(index):
        environment |= {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index}
        urls = [index]
    else:
        urls = list(defaults)
    if usable_extra:
        joined = " ".join(usable_extra)
        environment |= {"PIP_EXTRA_INDEX_URL": joined, "UV_INDEX": joined}
    if is_remote(index) and index.rstrip("/") == (defaults[0] if defaults else "").rstrip("/"):
        urls, environment = list(defaults), {}
    return Preset(_endpoints([*urls, *usable_extra]), environment)


def node_preset(registry: str) -> Preset:
    """From ``npm config get registry``."""
    url = registry.strip()
    if not is_remote(url):
        return Preset()
    return Preset(_endpoints([url]), {"npm_config_registry": url})


def debian_preset(sites: str) -> Preset:
    """From ``apt-get indextargets``: one site a line."""
    urls = sorted({line.strip() for line in sites.splitlines() if is_remote(line.strip())})
    return Preset(_endpoints(urls))


def is_remote(url: str) -> bool:
    """Whether a container could reach ``url`` through the gate."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return False
    if parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return True  # a name, not an address


def without_credentials(url: str) -> str:
    """``url`` without user and password; anything that is no URL stays as it is."""
    parts = urlsplit(url)
    if "@" not in parts.netloc or not parts.scheme:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _endpoints(urls: list[str]) -> tuple[Endpoint, ...]:
    found = []
    for url in urls:
        parts = urlsplit(url)
        ports = (parts.port,) if parts.port else BLIND_PORTS
        host = canonical_host(parts.hostname or "")
        found.append(Endpoint(host=host, ports=ports, named=True))
    return merge(tuple(found))


def _last(configured: dict[str, str], key: str) -> str:
    """The order of pip itself: the environment wins over ``install`` over ``global``."""
    for section in (":env:.", "install.", "global."):
        if section + key in configured:
            return configured[section + key]
    return ""


def _pythons() -> list[str]:
    found = [shutil.which("python3") or "", sys.executable]
    return [python for python in found if python]


def _ask_pip_config() -> dict[str, str]:
    for python in _pythons():
        text = _output([python, "-m", "pip", "config", "list"])
        if text:
            pairs = (line.partition("=") for line in text.splitlines())
            return {key: value.strip().strip("'\"") for key, _, value in pairs}
    return {}


def _ask_pip_defaults() -> tuple[str, ...]:
    for python in _pythons():
        text = _output([python, "-c", _ASK_PIP])
        if text:
            return tuple(json.loads(text))
    return ()


def _output(command: list[str]) -> str:
    """What a client of the host says; empty where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd="/"
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""  # no such client here, or one that hangs: the preset is smaller by it
    return done.stdout.strip() if done.returncode == 0 else ""


# ── the host's certificates ──────────────────────────────────────────────────────────────────


def host_ca_bundle() -> bytes:
    """The CA bundle that the host's own tools use; empty when there is none."""
    named = [os.environ.get(name, "") for name in _CA_VARIABLES]
    for path in [*named, _SYSTEM_BUNDLE]:
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    return b""


def ca_environment(config: PoolConfig) -> dict[str, str]:
    """The variables that make tools in a container trust the host's bundle."""
    if not config.trust_host_ca:
        return {}
    return {
        **dict.fromkeys(_CA_VARIABLES, CA_IN_CONTAINER),
        "UV_NATIVE_TLS": "true",
        "UV_SYSTEM_CERTS": "true",
    }
