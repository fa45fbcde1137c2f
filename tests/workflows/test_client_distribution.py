"""``greenroom-client`` as others install it: beside packages that have the names of ours."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from tests.workflows.api_lab import serving
from tests.workflows.pools import Pool

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib.util, json, sys
import activities, workflows
from greenroom.client import Greenroom
import greenroom

with Greenroom() as room, room.pool(sys.argv[1]).claim(claim_id="far") as claim:
    token = claim.token
without = [name for name in ("temporalio", "docker", "fastapi") if name in sys.modules]
from greenroom.client import PoolClient
print(json.dumps({
    "token": token, "without": without, "pool_client": PoolClient.__module__,
    "ours": greenroom.__file__, "theirs": [workflows.__file__, activities.__file__],
    "found": [name for name in ("worker", "greenroom.cli", "greenroom.api", "greenroom.services")
              if importlib.util.find_spec(name)],
}))
"""


def build(folder: Path) -> Path:
    """The wheel, by the backend of this environment: nothing is downloaded."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT / "packaging" / "client", check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a fresh environment with the wheel, which sees this one's dependencies."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
            "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    (site,) = folder.glob("lib/python*/site-packages")
    # A path alone: the editable install of this repository is a .pth file there, read by nobody.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


async def test_it_lives_beside_packages_of_the_same_names(pool: Pool, tmp_path: Path) -> None:
    wheel = await asyncio.to_thread(build, tmp_path / "dist")
    python = await asyncio.to_thread(install, wheel, tmp_path / "venv")
    project = tmp_path / "project"
    for name in ("workflows", "activities"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").touch()
    (project / "program.py").write_text(PROGRAM)
    async with serving(pool, tmp_path / "state") as lab:
        await pool.configure()
        await pool.until_ready(2)
        process = await asyncio.create_subprocess_exec(
            str(python), "program.py", pool.name, cwd=project,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "GREENROOM_STATE": str(lab.state.paths.root), "PYTHONPATH": ""},
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert told["token"] == 1
    assert told["pool_client"] == "greenroom.client.pool_client"
    assert (told["without"], told["found"]) == ([], [])
    assert told["ours"].startswith(str(tmp_path / "venv"))
    assert all(path.startswith(str(project)) for path in told["theirs"])


async def test_it_holds_core_and_client_and_asks_for_little(tmp_path: Path) -> None:
    wheel = build(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    folders = {name.rpartition("/")[0] for name in names if name.endswith(".py")}
    assert folders == {"greenroom", "greenroom/core", "greenroom/client"}
    asked = [
        Requirement(line.removeprefix("Requires-Dist: "))
        for line in text.splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    assert {one.name: str(one.marker or "") for one in asked} == {
        "httpx": "", "pydantic": "", "websockets": "", "temporalio": 'extra == "temporal"',
    }  # fmt: skip
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert str(parse_wheel_filename(wheel.name)[1]) == project["version"]
    # The bounds are those of the application, which the same modules run in.
    bounds = {
        Requirement(line).name: Requirement(line).specifier for line in project["dependencies"]
    }
    assert {one.name: one.specifier for one in asked} == {
        one.name: bounds[one.name] for one in asked
    }
