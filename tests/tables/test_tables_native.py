"""The extension is optional: without it everything works, and the reader is told once what is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rankwell.errors import RankwellWarning
from rankwell.tables import native as door


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says, as the variable is read on import; one without this one's sanitizer."""
    surrounding = {name: value for name, value in os.environ.items() if name not in ("RANKWELL_NATIVE", "LD_PRELOAD")}
    return subprocess.run(
        [sys.executable, "-c", code], env=surrounding | environment, capture_output=True, text=True, check=False
    )


def test_it_can_be_left_out_and_then_nothing_is_warned_of() -> None:
    ran = python(
        "from rankwell.tables import native as door; door.warn_if_absent(); print(door.native, door.why_absent())",
        RANKWELL_NATIVE="0",
        PYTHONWARNINGS="error",
    )
    assert (ran.stdout, ran.stderr) == ("None RANKWELL_NATIVE=0 is set\n", "")


def test_a_build_that_is_named_but_does_not_load_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"not an extension")
    ran = python("import rankwell.tables.native", RANKWELL_NATIVE=str(broken))
    assert ran.returncode != 0
    assert "ImportError" in ran.stderr


def test_a_package_without_it_says_why() -> None:
    hide = "import sys; sys.modules['rankwell.tables._native'] = None; "
    ran = python(hide + "from rankwell.tables import native as door; print(door.native, '|', door.why_absent())")
    found, _, reason = ran.stdout.strip().partition(" | ")
    assert found == "None"
    assert len(reason) > 10


def test_the_warning_comes_once_and_holds_the_reason_and_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKWELL_NATIVE", raising=False)
    monkeypatch.setattr(door, "native", None)
    monkeypatch.setattr(door, "_FOUND", (None, "no compiler"))
    monkeypatch.setattr(door, "_warned", False)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        door.warn_if_absent()
        door.warn_if_absent()
    (warning,) = given
    assert warning.category is RankwellWarning
    text = str(warning.message)
    assert "no compiler" in text
    assert f"{sys.executable} -m pip install" in text


def test_nothing_is_said_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKWELL_NATIVE", raising=False)
    monkeypatch.setattr(door, "native", object())
    monkeypatch.setattr(door, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        door.warn_if_absent()
