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
    supervisor_client.stop(settings.paths, report)
    stop_engine(report)
    report("services", "nothing is running")
