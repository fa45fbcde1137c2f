"""Scopes, tokens, rates, and the table that says what each route asks of its caller."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Route

from greenroom.api import app as application
from greenroom.api.access import RULES, WEBSOCKET, Subject, match
from greenroom.core.access import ALL_POOLS, Bucket, Grant, Scope, parse_bearer, take, token_text
from greenroom.core.errors import (
    BackendError,
    ConflictError,
    ForbiddenError,
    GreenroomError,
    NotFoundError,
    UnauthorizedError,
    UsageError,
)
from greenroom.core.paths import StatePaths
from greenroom.gate.namespaces import RefusedError
from greenroom.gate.opener import GateUser, Opener
from greenroom.services import tokens
from greenroom.services.listen import Asked, parse_listen, tls_context
from greenroom.services.tokens import TokenBook, Wanted

HEX = st.text("0123456789abcdef", min_size=1, max_size=80)


def routes() -> set[tuple[str, str]]:
    """Every route of the application, with its own way to the OpenAPI document."""
    made = application.make_app(None)  # type: ignore[arg-type]
    own: list[BaseRoute] = [*made.routes, *(r for each in application.ROUTERS for r in each.routes)]
    found = set()
    for route in own:
        if isinstance(route, APIWebSocketRoute):
            found.add((WEBSOCKET, route.path))
        elif isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
    return found


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    assert routes() == set(RULES)


def test_the_application_has_no_route_beside_its_routers() -> None:
    made = application.make_app(None)  # type: ignore[arg-type]
    documented = {
        (method.upper(), path) for path, each in made.openapi()["paths"].items() for method in each
    }
    assert documented == {
        (method, path) for method, path in RULES if method != WEBSOCKET and path != "/openapi.json"
    }


def test_a_rule_touches_what_its_path_names() -> None:
    for (method, path), rule in RULES.items():
        named = {"{pool}": Subject.POOL, "{claim_id}": Subject.CLAIM}
        expected = next((subject for name, subject in named.items() if name in path), None)
        if (method, path) == ("GET", "/v1/claims/{claim_id}"):
            expected = Subject.FILTERED  # it shows queued and ended claims too, and looks itself
        if expected is not None:
            assert rule.subject is expected, path
        if method != "GET":
            assert rule.scope is not None, path
            assert rule.scope is not Scope.READ, f"{method} {path} changes something"


@given(st.sampled_from(sorted({path for _, path in RULES})), st.text("abc-._~%20@", min_size=1))
def test_a_path_leads_to_its_own_template(template: str, value: str) -> None:
    path = template.replace("{pool}", value).replace("{claim_id}", value).replace("{ident}", value)
    found = match(path)
    assert found is not None
    assert found.template == template
    assert set(found.values.values()) <= {value}


@given(st.text(max_size=60))
def test_no_other_path_leads_anywhere(path: str) -> None:
    found = match(path)
    assert found is None or path.startswith("/")


@given(st.sampled_from(Scope), st.sampled_from(Scope))
def test_scopes_contain_those_before(held: Scope, needed: Scope) -> None:
    grant = Grant("t", frozenset(["p"]), held)
    order = ["read", "claim", "admin"]
    if order.index(needed) <= order.index(held):
        grant.check_scope(needed)
    else:
        with pytest.raises(ForbiddenError):
            grant.check_scope(needed)


@given(st.frozensets(st.sampled_from(["a", "b", "c"])), st.sampled_from(["a", "b", "c", "d"]))
def test_a_grant_sees_its_pools_and_no_other(pools: frozenset[str], pool: str) -> None:
    assert Grant("t", pools, Scope.ADMIN).sees(pool) is (pool in pools)
    assert Grant("t", pools | {ALL_POOLS}, Scope.READ).sees(pool)


@given(
    st.text("0123456789abcdef", min_size=10, max_size=10),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
def test_a_token_is_read_back(ident: str, secret: str) -> None:
    assert parse_bearer(f"Bearer {token_text(ident, secret)}") == (ident, secret)
    assert parse_bearer(f"bearer  {token_text(ident, secret)} ") == (ident, secret)


@given(st.one_of(st.text(), HEX, st.builds("Bearer grt_{}_{}".format, HEX, HEX), st.none()))
def test_whatever_else_is_sent_is_refused(header: str | None) -> None:
    with contextlib.suppress(UnauthorizedError):
        assert [len(part) for part in parse_bearer(header)] == [10, 64]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60), st.floats(0.5, 50), st.floats(1, 100))
def test_a_bucket_never_gives_more_than_its_rate(
    pauses: list[float], rate: float, burst: float
) -> None:
    bucket: Bucket | None = None
    now, taken = 100.0, 0
    for pause in pauses:
        now += pause
        bucket, wait = take(bucket, now, rate=rate, burst=burst)
        taken += wait == 0
        assert wait >= 0
        if wait:
            later, again = take(bucket, now + wait + 1e-6, rate=rate, burst=burst)
            assert again == 0, later
    assert taken <= burst + (now - 100.0) * rate + 1e-6


# ── the file of tokens ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path)


def wanted(name: str = "ci", **more: Any) -> Wanted:
    return Wanted(**{"name": name, "pools": ("api",), "scope": Scope.CLAIM, **more})


def test_a_token_is_kept_hashed_for_its_owner_only(paths: StatePaths) -> None:
    record, text = tokens.create(paths, wanted(), now=1.0)
    _, secret = parse_bearer(f"Bearer {text}")
    assert secret not in paths.tokens.read_text()
    assert record.digest in paths.tokens.read_text()
    assert stat.S_IMODE(paths.tokens.stat().st_mode) == 0o600
    assert tokens.listing(paths) == [record]
    assert len(text) == len(tokens.create(paths, wanted("b"), now=2.0)[1])


def test_a_token_is_good_until_it_expires_or_is_revoked(paths: StatePaths) -> None:
    book = TokenBook(paths)
    record, text = tokens.create(paths, wanted(expires_at=10.0), now=1.0)
    ident, secret = parse_bearer(f"Bearer {text}")
    assert book.find(ident, secret, now=9.9) == record
    with pytest.raises(UnauthorizedError, match="expired"):
        book.find(ident, secret, now=10.0)
    for wrong in ((ident, "0" * 64), ("0" * 10, secret)):
        with pytest.raises(UnauthorizedError, match="unknown or revoked"):
            book.find(*wrong, now=2.0)
    tokens.revoke(paths, "ci")
    assert not book.has(record, 2.0)
    with pytest.raises(UnauthorizedError, match="unknown or revoked"):
        book.find(ident, secret, now=2.0)


def test_a_name_made_again_is_another_token(paths: StatePaths) -> None:
    book = TokenBook(paths)
    old, _ = tokens.create(paths, wanted(), now=1.0)
    with pytest.raises(ConflictError):
        tokens.create(paths, wanted(), now=1.0)
    tokens.revoke(paths, "ci")
    tokens.create(paths, wanted(), now=1.0)
    assert not book.has(old, 2.0)
    with pytest.raises(NotFoundError):
        tokens.revoke(paths, "nobody")


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../x"}, {"name": ""}, {"pools": ()}, {"pools": ("UPPER",)}, {"rate": 0.0},
     {"rate": float("nan")}],
)  # fmt: skip
def test_wrong_tokens_are_refused(paths: StatePaths, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tokens.create(paths, wanted(**wrong), now=1.0)
    assert not paths.tokens.exists()


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"name": "a"}]', "null"])
def test_a_broken_file_lets_nobody_in(paths: StatePaths, text: str) -> None:
    paths.tokens.write_text(text)
    with pytest.raises((BackendError, UnauthorizedError)):
        TokenBook(paths).find("0" * 10, "0" * 64, now=1.0)


def test_a_newer_version_may_write_more(paths: StatePaths) -> None:
    record, _ = tokens.create(paths, wanted(), now=1.0)
    kept = json.loads(paths.tokens.read_text())
    paths.tokens.write_text(json.dumps([{**kept[0], "later": 1}]))
    assert tokens.listing(paths) == [record]


# ── where it listens ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "url"),
    [("127.0.0.1:80", "http://127.0.0.1:80"), ("localhost:8080", "http://127.0.0.1:8080"),
     ("[::1]:8080", "http://[::1]:8080"), ("127.9.9.9:1", "http://127.9.9.9:1")],
)  # fmt: skip
def test_loopback_needs_no_tls(text: str, url: str) -> None:
    listen = parse_listen(Asked(text))
    assert listen is not None
    assert listen.url == url


@pytest.mark.parametrize(
    ("text", "why"),
    [("0.0.0.0:80", "not loopback"), ("[::]:80", "not loopback"), ("10.0.0.1:80", "not loopback"),
     ("example.com:80", "not a name"), ("127.0.0.1", "a port"), ("127.0.0.1:0", "a port"),
     ("127.0.0.1:65536", "a port"), ("::1:80", "a port"), ("127.0.0.1:80/x", "a port")],
)  # fmt: skip
def test_other_addresses_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_listen(Asked(text))


@given(st.text(max_size=30))
def test_any_address_is_taken_or_refused(text: str) -> None:
    try:
        listen = parse_listen(Asked(text))
    except GreenroomError:
        return
    assert listen is None or listen.url.startswith("http://")


def test_what_was_asked_last_time_stays() -> None:
    before = Asked("0.0.0.0:8443", "/c", "/k")
    assert Asked().after(before) == before
    assert Asked("off").after(before) == Asked()
    assert Asked("127.0.0.1:80").after(before) == Asked("127.0.0.1:80")
    assert Asked("", "/new", "/k2").after(before) == Asked("0.0.0.0:8443", "/new", "/k2")
    with pytest.raises(UsageError, match="go together"):
        parse_listen(Asked("0.0.0.0:1", "/c", ""))


def test_a_key_that_all_may_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o644)
    listen = parse_listen(Asked("0.0.0.0:1", str(key), str(key)))
    assert listen is not None
    with pytest.raises(UsageError, match="chmod 600"):
        tls_context(listen)
    key.chmod(0o600)
    with pytest.raises(UsageError, match="TLS with"):
        tls_context(listen)


def test_the_gates_user_gets_no_socket_of_a_container(paths: StatePaths) -> None:
    other = os.getuid() + 1
    opener = Opener(paths, GateUser(other, other))
    with pytest.raises(RefusedError, match="may not connector"):
        opener._dispatch(other, b'{"op":"connector","container":"c1"}')


def test_errors_are_documented_for_every_operation() -> None:
    made: FastAPI = application.make_app(None)  # type: ignore[arg-type]
    for path, methods in made.openapi()["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"], path
            assert "422" not in operation["responses"], path
            open_to_all = RULES[method.upper(), path].scope is None
            assert ("security" in operation) is not open_to_all, path
