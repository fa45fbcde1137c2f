"""Exit codes, the one document of ``--json``, and what options mean."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from greenroom.cli import main as boundary
from greenroom.cli import options, output
from greenroom.cli.forward import parse_ports
from greenroom.cli.main import COMMANDS, PLANNED, run
from greenroom.cli.release import command as release_command
from greenroom.core.errors import BY_CODE, GreenroomError, PreparationError, UsageError


@pytest.fixture(autouse=True)
def no_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_STATE", str(tmp_path))


class _Raising:
    """Stands for a command's module; its command raises ``error``."""

    def __init__(self, error: BaseException) -> None:
        @click.command("raising")
        @click.option("--json", "as_json", is_flag=True)
        def command(as_json: bool) -> None:
            raise error

        self.command = command


Capture = pytest.CaptureFixture[str]
Raising = Callable[[BaseException], None]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raising:
    def install(error: BaseException) -> None:
        monkeypatch.setattr(boundary.importlib, "import_module", lambda _: _Raising(error))

    return install


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
@pytest.mark.parametrize("command", ["status", "exec", "run", "shell"])
def test_every_error_has_its_code(
    kind: type[GreenroomError], command: str, raising: Raising, capfd: Capture
) -> None:
    raising(kind("so it is", a=1))
    code = run([command, "--json"])
    passing = command in ("exec", "run", "shell")
    assert code == (kind.exec_exit_code if passing else kind.exit_code)
    out, err = capfd.readouterr()
    assert json.loads(out) == {"error": kind.code, "message": "so it is", "details": {"a": 1}}
    assert err.splitlines()[-1] == "greenroom: so it is"


def test_without_json_nothing_is_on_stdout(raising: Raising, capfd: Capture) -> None:
    raising(PreparationError("it failed", tail="line 1\nline 2\n"))
    assert run(["status"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "line 1\nline 2\ngreenroom: it failed\n"


def test_a_bug_is_a_report_to_paste(raising: Raising, capfd: Capture) -> None:
    raising(RuntimeError("oh"))
    assert run(["status"]) == 1
    _, err = capfd.readouterr()
    assert "Traceback" in err
    assert "this is a bug (RuntimeError: oh)" in err.splitlines()[-1]
    raising(RuntimeError("oh"))
    assert run(["exec"]) == 125


def test_interrupted_is_130(raising: Raising, capfd: Capture) -> None:
    raising(KeyboardInterrupt())
    assert run(["status"]) == 130


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["no-such"], 2),
        (["status", "--no-such"], 2),
        (["exec"], 120),
        (["run", "pool"], 120),
        (["claim", "p", "--ttl", "soon"], 2),
        (["claim", "p", "--sha", "abc"], 2),
        (["status", "--watch", "--json"], 2),
        (["down", "--wait", "--force"], 2),
        (["release", "c", "--save", "d", "--discard"], 2),
        (["claims"], 5),
        (["exec", "c", "--", "true"], 123),
        (["--help"], 0),
        (["--version"], 0),
    ],
)
def test_lines_without_an_install(line: list[str], code: int, capfd: Capture) -> None:
    assert run(line) == code


@pytest.mark.parametrize("name", PLANNED)
def test_planned_commands_say_so(name: str, capfd: Capture) -> None:
    assert run([name, "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"] == "planned"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str, capfd: Capture) -> None:
    command = importlib.import_module(f"greenroom.cli.{name}").command
    assert command.name == name
    assert command.help
    serving = {"worker", "api", "gate", "opener", "supervise", "shell"}
    parts = command.commands.values() if isinstance(command, click.Group) else [command]
    for part in parts:
        assert name in serving or any("--json" in option.opts for option in part.params)
        assert part.help
    assert run([name, "--help"]) == 0


@pytest.mark.parametrize("name", boundary.LOCAL)
def test_commands_of_the_machine_refuse_a_remote_api(
    name: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_URL", "https://greenroom.example.com")
    assert run([name]) == 2
    assert "on the machine itself" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("address", "why"),
    [("http://10.0.0.1:80", "without TLS"), ("ftp://h", "write https"), ("unix://h/x", "write"),
     ("https://u:p@h", "write"), ("https://h:port", "Port"), ("nonsense", "write")],
)  # fmt: skip
def test_addresses_that_cannot_be_are_refused(
    address: str, why: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_URL", address)
    assert run(["claims"]) == 2
    assert why in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "ports"), [("8000", (8000, 8000)), ("0:80", (0, 80)), ("1:65535", (1, 65535))]
)
def test_ports_to_forward(text: str, ports: tuple[int, int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "0", "x:1", "1:0", "1:65536", "70000:1", "1:2:3", "-1:2"])
def test_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ports(text)


def test_json_after_the_dashes_is_the_commands_own(capfd: Capture) -> None:
    assert run(["exec", "c", "--", "tool", "--json"]) == 123
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1h", 3600), ("2d", 172800)]
)
def test_times(text: str, seconds: float) -> None:
    assert options.SPAN.convert(text, None, None) == seconds


def test_the_body_of_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    monkeypatch.setenv("FROM_HERE", "yes")
    plain = {
        "claim_id": None, "ttl": 0.0, "wait": 5.0, "heartbeat": 30.0, "label": ("team=a=b",),
        "git_name": "N", "git_email": "", "env": ("A=1", "FROM_HERE"), "secret": (f"T=@{secret}",),
        "files": (f"other={secret}", str(secret)), "host_secrets": ("KEY",),
        "sealed": (f"S=@{secret}", "P=grs1.x.y"),
    }  # fmt: skip
    body = options.claim_body(plain)
    content = base64.b64encode(b"geheim").decode()
    assert body["env"] == {"A": "1", "FROM_HERE": "yes"}
    assert body["secrets"] == {"T": "geheim"}
    assert body["files"] == {"other": content, "secret": content}
    assert body["labels"] == {"team": "a=b"}
    assert body["sealed"] == {"S": "geheim", "P": "grs1.x.y"}
    assert body["host_secrets"] == ("KEY",)
    assert body["heartbeat_s"] == 30
    assert body["claim_id"] != options.claim_body(plain)["claim_id"]


@pytest.mark.parametrize(
    "wrong", [{"env": ("=1",)}, {"env": ("NOT_SET_HERE",)}, {"secret": ("T=plain",)},
              {"secret": ("T=@/no/such",)}, {"label": ("x",)}],
)  # fmt: skip
def test_wrong_parts_of_a_claim_are_refused(wrong: dict[str, tuple[str, ...]]) -> None:
    empty = {
        "claim_id": "c", "ttl": 0.0, "wait": 0.0, "heartbeat": 0.0, "label": (),
        "git_name": "", "git_email": "", "env": (), "secret": (), "files": (), "sealed": (),
        "host_secrets": (),
    }  # fmt: skip
    with pytest.raises(UsageError):
        options.claim_body({**empty, **wrong})


def test_spans_for_people() -> None:
    assert [output.span(s) for s in (-1, 0.05, 5, 119, 600, 7200, 200_000)] == [
        "0s", "50ms", "5s", "119s", "10m", "2h", "2d",
    ]  # fmt: skip


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([("a", 1), ("long", 22)], ("name", "n"))
    assert capsys.readouterr().out == "NAME  N\na     1\nlong  22\n"
    output.table([], ("name",))
    assert capsys.readouterr().out == ""


def test_release_has_the_designed_options() -> None:
    names = {name for option in release_command.params for name in option.opts}
    assert {"--save", "--discard", "--json"} <= names
