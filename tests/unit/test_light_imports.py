"""What quick commands and the library do not import: that is what makes them quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("temporalio", "fastapi", "uvicorn", "docker", "pydantic", "httpx", "yaml", "asyncio")
"""Each costs more than a whole ``greenroom claim``, or drags one in that does."""
TELL = "json.dump(sorted({name.partition('.')[0] for name in sys.modules}), sys.stdout)"


def imported(program: str, environ: dict[str, str]) -> set[str]:
    """The top-level modules that a program has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{program}\n{TELL}"],
        capture_output=True, check=True, env={**os.environ, **environ},
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("line", "streams"),
    [
        (("claim", "p"), False),
        (("release", "c"), False),
        (("extend", "c", "--ttl", "1h"), False),
        (("status",), False),
        (("exec", "c", "--", "true"), True),
        (("run", "p", "--", "true"), True),
        (("shell", "c"), True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_quick_command_imports_nothing_heavy(
    line: tuple[str, ...], streams: bool, tmp_path: Path
) -> None:
    program = (
        "from greenroom.cli.main import run\n"
        f"assert run({list(line)!r}) in (5, 120, 123)\n"
        f"if {streams}: import greenroom.cli.streaming"
    )
    found = imported(program, {"GREENROOM_STATE": str(tmp_path)})
    assert "click" in found
    heavy = found & {*HEAVY, "http", "ssl", "email"}
    # The library for WebSockets brings its own, and no command without streams imports it.
    assert heavy <= ({"http", "ssl", "email", "asyncio"} if streams else set())
    assert ("websockets" in found) is streams


def test_the_client_over_http_needs_no_temporal_and_the_other_no_httpx() -> None:
    over_http = imported("from greenroom.client import AsyncGreenroom, Greenroom", {})
    assert {"httpx", "websockets", "pydantic"} <= over_http
    assert not over_http & {"temporalio", "fastapi", "docker", "workflows", "activities"}
    over_temporal = imported("from greenroom.client import PoolClient", {})
    assert "temporalio" in over_temporal
    assert not over_temporal & {"httpx", "websockets", "workflows", "activities"}
