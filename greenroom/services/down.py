"""Everything of ``down`` that comes after pools and containers are gone."""

from __future__ import annotations

from greenroom.services import supervisor_client
from greenroom.services.engine_setup import stop_engine
from greenroom.services.progress import Report
from greenroom.services.settings import Settings


def bring_down(settings: Settings, report: Report) -> None:
    """Stop every service, and the engine if Greenroom started it and nobody uses it.

    State stays. Safe to call again, and when nothing runs. Raises BackendError.
    """
    paths = settings.paths
    supervisor_client.stop(paths, report)
    for dead in (paths.opener_socket, paths.gate_socket, paths.api_socket):
        dead.unlink(missing_ok=True)  # a process that was killed could not
    stop_engine(report)
    report("services", "nothing is running")
