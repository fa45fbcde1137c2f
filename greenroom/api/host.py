"""This host's lease files and containers, through the activities' own functions."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace

from activities import beats, host_secrets, leases, slotfiles
from activities.containers import exec_environment
from activities.context import HostContext, open_context
from activities.keptpools import kept_config
from activities.personal import check_personal, room_needed
from activities.profiles import size_mib
from greenroom.api.state import PersonalParts, WantedSecrets
from greenroom.core.errors import GateError, UsageError
from greenroom.core.records import Lease
from greenroom.core.slotfile import SlotRecord
from greenroom.sealing import PublicKey
from greenroom.services.docker_http import DockerHttp
from greenroom.services.settings import Settings

_SURELY_FITS = 512 * 1024
"""Bytes that the smallest personal folder (1 MiB) has room for."""


@dataclass(frozen=True)
class LocalHost:
    """``HostSide`` of the real host."""

    context: HostContext

    @classmethod
    def of(cls, settings: Settings) -> LocalHost:
        """Connects to nothing yet. Raises UsageError."""
        return cls(open_context(settings))

    def arm(self, lease: Lease, personal: PersonalParts | None) -> None:
        """See ``HostSide``."""
        leases.arm(self.context, lease, None if personal is None else _written(personal))

    def fetch(self, wanted: WantedSecrets, personal: PersonalParts) -> PersonalParts:
        """See ``HostSide``."""
        asked = host_secrets.Wanted(**vars(wanted))
        found = host_secrets.fetch(self.context.paths, asked, _written(personal))
        return replace(personal, env=found.env, secrets=found.secrets)

    def public_key(self, pool: str) -> PublicKey:
        """See ``HostSide``."""
        return host_secrets.public_key(self.context.paths, pool)

    def check_personal(self, pool: str, personal: PersonalParts) -> None:
        """See ``HostSide``."""
        written = _written(personal)
        check_personal(written)
        needed = room_needed(written)
        if needed <= _SURELY_FITS:
            return
        config = kept_config(self.context.paths, pool)
        if config is not None and needed > size_mib(config.limits) << 20:
            raise UsageError(
                f"the personal files take {needed} bytes, more than the pool's limits.personal "
                f"({config.limits.personal})"
            )

    def beat(self, container: str) -> None:
        """See ``HostSide``."""
        beats.beat(self.context.paths, container)

    def slot_of_claim(self, claim_id: str) -> SlotRecord | None:
        """See ``HostSide``."""
        return slotfiles.slot_of_claim(self.context.paths, claim_id)

    def slot(self, container: str) -> SlotRecord | None:
        """See ``HostSide``."""
        return slotfiles.read_slot(self.context.paths, container)

    def command(self, slot: SlotRecord, command: tuple[str, ...]) -> tuple[str, ...]:
        """See ``HostSide``."""
        return leases.exec_command(slot, command)

    def environment(self, slot: SlotRecord) -> dict[str, str]:
        """See ``HostSide``."""
        return exec_environment(slot)

    def connect_socket(self, slot: SlotRecord) -> socket.socket:
        """See ``HostSide``."""
        return self.context.opener.connector(slot.container)

    def check(self) -> dict[str, str]:
        """See ``HostSide``."""
        docker = DockerHttp(self.context.settings.docker_host).answers()
        try:
            self.context.gate.stats()
            gate = ""
        except GateError as error:
            gate = error.message
        return {"docker": "" if docker else "does not answer", "gate": gate}


def _written(personal: PersonalParts) -> leases.Personal:
    return leases.Personal(
        env=personal.env,
        secrets=personal.secrets,
        files=personal.files,
        git_name=personal.git_name,
        git_email=personal.git_email,
    )
