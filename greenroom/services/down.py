"""Everything of ``down`` that comes after pools and containers are gone."""

from __future__ import annotations

import json

from greenroom.core.names import LABEL_INSTALL
from greenroom.services import supervisor_client
from greenroom.services.docker_http import DockerHttp
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
    _stop_containers(settings, report)
    stop_engine(report)
    report("services", "nothing is running")


def _stop_containers(settings: Settings, report: Report) -> None:
    """Kill what a pool could not retire any more; its files stay until the next ``up``."""
    engine = DockerHttp(settings.docker_host)
    if not engine.answers():
        return
    labels = json.dumps({"label": [f"{LABEL_INSTALL}={settings.install_id}"]})
    left = engine.get("/containers/json", filters=labels)
    for container in left:
        engine.kill(container["Id"])
    if left:
        report("containers", f"{len(left)} that were left are stopped")
