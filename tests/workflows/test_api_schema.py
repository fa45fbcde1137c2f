"""What the OpenAPI document promises is what the API answers, whatever it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from greenroom.api.app import make_app
from greenroom.core.access import Scope
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool

BOUNDED = settings(
    max_examples=20, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
CLAIM = "s1"
ENDING = {("DELETE", "/v1/pools/{pool}"), ("POST", "/v1/pools/{pool}/suspend"),
          ("DELETE", "/v1/claims/{claim_id}")}  # fmt: skip
"""What would end the pool or the claim that the others are tried on."""


@pytest_asyncio.fixture(loop_scope="session")
async def lab(pool: Pool, tmp_path: Path) -> AsyncIterator[ApiLab]:
    async with serving(pool, tmp_path) as lab:
        await pool.configure()
        await pool.until_ready(2)
        claimed = await lab.cli("claim", pool.name, "--id", CLAIM)
        assert claimed.code == 0, claimed.err
        yield lab


def aimed(case: Case, pool: str) -> None:
    """Have half of the cases find something, and none wait."""
    known = {"pool": pool, "claim_id": CLAIM, "ident": CLAIM}
    if (case.method, case.path) not in ENDING:
        for name, value in case.path_parameters.items():
            if len(str(value)) % 2:
                case.path_parameters[name] = known[name]
    if isinstance(case.body, dict) and "wait_s" in case.body:
        case.body["wait_s"] = 0


@dataclass
class Trial:
    """Sends cases, and checks what comes back; ``seen`` are the statuses of each operation."""

    url: str
    token: str
    pool: str
    seen: dict[str, set[int]] = field(default_factory=dict)

    def attempt(self, case: Case) -> None:
        aimed(case, self.pool)
        response = case.call(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=20
        )
        self.seen.setdefault(f"{case.method} {case.path}", set()).add(response.status_code)
        assert response.status_code != 500, response.text
        if response.status_code >= 400 and case.path != "/readyz":
            assert response.json()["request_id"] == response.headers["x-request-id"][0]
        case.validate_response(response, checks=CHECKS)

    def all(self, document: dict[str, Any]) -> None:
        """Every operation, with what it may and with what it may not be sent."""
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = found.ok()
            for mode in GenerationMode:
                if mode is GenerationMode.NEGATIVE and not _takes_something(operation):
                    continue
                cases = operation.as_strategy(generation_mode=mode)
                BOUNDED(given(cases)(_one(self)))()


def _one(trial: Trial) -> Callable[[Case], None]:
    def attempt(case: Case) -> None:
        trial.attempt(case)

    return attempt


def _takes_something(operation: APIOperation) -> bool:
    return bool(len(operation.path_parameters) + len(operation.query) + len(operation.body))


async def test_every_operation_answers_as_it_is_described(lab: ApiLab) -> None:
    token = lab.token("all", Scope.ADMIN, "*", rate=100_000)
    document = make_app(lab.state).openapi()
    async with lab.remote() as url:
        trial = Trial(url, token, lab.pool.name)
        await asyncio.to_thread(trial.all, document)
        seen = trial.seen
    operations = {f"{m.upper()} {path}" for path, each in document["paths"].items() for m in each}
    assert set(seen) == operations
    assert all(seen.values()), seen
    fine = {name for name, statuses in seen.items() if 200 in statuses}
    assert {"GET /v1/pools/{pool}", "GET /v1/claims/{claim_id}", "GET /v1/claims"} <= fine


HOSTILE = ["..%2f..%2fetc", "%2e%2e", "%00", "a" * 5000, "%F0%9F%A6%8A", "%ff%fe", "-rf", "*",
           "a%0d%0ab", "%2e%2e%2f", "a%2fb"]  # fmt: skip


async def test_hostile_names_get_clear_refusals(lab: ApiLab) -> None:
    headers = {"Authorization": f"Bearer {lab.token('all', Scope.ADMIN, '*', rate=10_000)}"}
    async with (
        lab.remote() as url,
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http,
    ):
        for name in HOSTILE:
            for method, path in (
                ("GET", f"/v1/pools/{name}"), ("DELETE", f"/v1/pools/{name}"),
                ("POST", f"/v1/pools/{name}/pause"), ("GET", f"/v1/claims/{name}"),
                ("DELETE", f"/v1/claims/{name}"), ("GET", f"/v1/logs/{name}"),
                ("GET", f"/v1/claims/{name}/files?path=x"), ("GET", f"/v1/saved?claim={name}"),
            ):  # fmt: skip
                answer = await http.request(method, path)
                assert answer.status_code in (400, 404, 405), f"{path}: {answer.text}"
                assert answer.json()["message"]
        for path in ("", "%00", "a" * 4096, "%ff"):
            answer = await http.get(f"/v1/claims/{CLAIM}/files?path={path}")
            assert answer.status_code in (400, 404, 502), answer.text
