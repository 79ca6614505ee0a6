"""`rankwell deploy` and `rankwell rollback`; `rankwell serve` with settings that it can't be started with."""

from __future__ import annotations

import builtins
import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.calibration.platt import Platt
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, MissingExtraError, PrivacyError, RequestError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.http.serve_settings import ServeSettings
from rankwell.serving.manifest import is_deployment
from rankwell.serving.rollout import RolloutFolder

SCHEMA = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job", member_id=None, time=None
)


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for name, offset in (("first", -1.0), ("second", 1.0)):
        model = Logistic(SCHEMA, NumericStatistics(), seed=0)
        write_bundle(Bundle(model=model, calibrators={"click": Platt(1.0, offset)}, created_us=0), tmp_path / name)
    return tmp_path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle is deployed as it is: its export takes seconds, and has tests of its own."""
    monkeypatch.setattr("rankwell.app.serve_command.write_deployment", lambda bundle, path: write_bundle(bundle, path))


@pytest.mark.usefixtures("without_export")
def test_a_bundle_is_deployed_tried_on_and_rolled_back(bundles: Path) -> None:
    root = bundles / "root"
    folder = RolloutFolder(root)
    assert run("deploy", root, bundles / "first").exit_code == 0
    first = folder.read().current
    assert run("deploy", root, bundles / "second", "--canary", "0.25").exit_code == 0
    trial = folder.read()
    assert trial.current == first
    assert trial.canary is not None
    assert trial.canary.share == 0.25
    found = run("deploy", root, bundles / "second")
    assert found.output.splitlines() == [f"current: {trial.canary.bundle_id}", f"previous: {first}"]
    assert folder.read().canary is None
    assert run("deploy", root, bundles / "first", "--shadow", "1").exit_code == 0
    found = run("rollback", root)
    assert found.output.splitlines()[0] == f"current: {first}"
    assert folder.read().shadow is None


@pytest.mark.slow
def test_what_is_deployed_of_a_bundle_is_its_graph(bundles: Path) -> None:
    assert run("deploy", bundles / "root", bundles / "first").exit_code == 0
    folder = RolloutFolder(bundles / "root")
    assert is_deployment(folder.path_of(folder.read().current))


def test_what_is_no_bundle_is_refused(bundles: Path) -> None:
    for arguments, kind in (
        (("deploy", bundles / "root", bundles / "nothing"), BundleError),
        (("rollback", bundles / "root"), BundleError),
        (("deploy", bundles / "root", bundles / "first", "--canary", "0.1", "--shadow", "0.1"), RequestError),
    ):
        assert isinstance(run(*arguments).exception, kind)
    assert not RolloutFolder(bundles / "root").is_there


def test_tokens_come_from_a_file_or_the_environment(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ServeSettings] = []

    def never(settings: ServeSettings, **_: Any) -> int:
        started.append(settings)
        return 0

    monkeypatch.setattr("rankwell.serving.http.supervisor.serve", never)
    RolloutFolder(bundles / "root").deploy(bundles / "first")
    assert run("serve", bundles / "root").exit_code == 0
    monkeypatch.setenv("RANKWELL_ADMIN_TOKEN", "secret")
    assert run("serve", bundles / "root", "--explore", "2", "--pool", "5", "--log", bundles / "log").exit_code == 0
    digest = hashlib.sha256(b"web").hexdigest()
    (bundles / "tokens.json").write_text(f'{{"web": {{"sha256": "{digest}", "scopes": ["rank"]}}}}')
    assert run("serve", bundles / "root", "--tokens", bundles / "tokens.json").exit_code == 0
    assert started[0].tokens.is_open
    assert started[1].tokens.client("Bearer secret", "admin").name == "admin"
    assert started[1].exploration.slots == (2,)
    assert started[2].tokens.client("Bearer web", "rank").name == "web"
    (bundles / "tokens.json").write_text("{}")
    assert isinstance(run("serve", bundles / "root", "--tokens", bundles / "tokens.json").exception, PrivacyError)


def test_without_its_libraries_a_server_says_how_to_install_them(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    real = builtins.__import__

    def without_granian(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("granian"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="granian")
        return real(name, *arguments, **named)

    for module in [name for name in sys.modules if name.startswith(("granian", "rankwell.serving.http"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without_granian)
    found = run("serve", bundles / "first").exception
    assert isinstance(found, MissingExtraError)
    assert "pip install 'rankwell[serve]'" in str(found)
