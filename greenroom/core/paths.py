"""Where things are in the state folder: names only, nothing is read or written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StatePaths:
    """The state folder of one install and the places inside it."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def slots(self) -> Path:
        return self.root / "slots"

    @property
    def claims(self) -> Path:
        return self.root / "claims"

    @property
    def mirrors(self) -> Path:
        return self.root / "mirrors"

    @property
    def saved(self) -> Path:
        return self.root / "saved"

    @property
    def pools(self) -> Path:
        return self.root / "pools"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def tasks(self) -> Path:
        return self.root / "tasks"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def host_secrets(self) -> Path:
        return self.root / "secrets.yaml"

    @property
    def personal_root(self) -> Path:
        return self.root / "personal"

    @property
    def install_id(self) -> Path:
        return self.root / "install_id"

    @property
    def up(self) -> Path:
        return self.root / "up.json"

    @property
    def tokens(self) -> Path:
        """The API's tokens, hashed; 0600."""
        return self.root / "tokens.json"

    @property
    def temporal_db(self) -> Path:
        return self.root / "temporal.db"

    @property
    def seccomp(self) -> Path:
        return self.root / "seccomp.json"

    @property
    def gate_socket(self) -> Path:
        return self.run / "gate.sock"

    @property
    def opener_socket(self) -> Path:
        return self.run / "opener.sock"

    @property
    def api_socket(self) -> Path:
        return self.run / "api.sock"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    def slot(self, container: str) -> Path:
        """The lease file of one container."""
        return self.slots / f"{container}.json"

    def slot_lock(self, container: str) -> Path:
        """The file whose lock serialises all writers of one lease file."""
        return self.slots / f".{container}.lock"

    def slot_beat(self, container: str) -> Path:
        """The file whose time is that of the last heartbeat of a container's holder."""
        return self.slots / f".{container}.beat"

    def claim(self, claim_id: str) -> Path:
        """The index entry that leads from a claim id to its container."""
        return self.claims / claim_id

    def personal(self, container: str) -> Path:
        """The mount point of one container's personal tmpfs."""
        return self.personal_root / container

    def mirror(self, key: str) -> Path:
        """The bare mirror of one repository."""
        return self.mirrors / f"{key}.git"

    def saved_claim(self, pool: str, claim_id: str) -> Path:
        """The folder with the work that one claim left."""
        return self.saved / pool / claim_id

    def task(self, pool: str, claim_id: str) -> Path:
        """The folder with the output of one claim's Task and hooks."""
        return self.tasks / pool / claim_id

    def pool_key(self, pool: str) -> Path:
        """The private key that opens what was sealed for one pool."""
        return self.keys / f"{pool}.key"

    def build_log(self, pool: str, name: str) -> Path:
        """The output of preparing one snapshot or container."""
        return self.evidence / pool / f"{name}.log"


def state_root(environ: Mapping[str, str], *, root: bool, home: Path) -> Path:
    """The state folder that a user's environment selects: the named one, else the usual one."""
    if named := environ.get("GREENROOM_STATE", ""):
        return Path(named)
    if root:
        return Path("/var/lib/greenroom")
    base = environ.get("XDG_STATE_HOME") or str(home / ".local" / "state")
    return Path(base) / "greenroom"
