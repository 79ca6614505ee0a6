from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.platt import Platt
from rankwell.errors import BundleError
from rankwell.models.model import Model
from rankwell.models.wide_deep import Logistic
from rankwell.serving.manifest import class_at, class_path, read_manifest


class Nested:
    class Layer(nn.Module):
        pass


class Top(nn.Module):
    pass


def test_a_class_is_found_where_its_path_says() -> None:
    assert class_at(class_path(Platt(1.0, 0.0)), Calibrator) is Platt  # type: ignore[type-abstract]
    assert class_at("rankwell.models.wide_deep:Logistic", Model) is Logistic  # type: ignore[type-abstract]
    assert class_at(class_path(Top()), nn.Module) is Top


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("os:system", "no subclass of rankwell.models.model:Model"),
        ("builtins:eval", "no subclass"),
        ("subprocess:Popen", "no subclass"),
        ("torch.nn:Linear", "no subclass"),
        ("rankwell.calibration.platt:Platt", "no subclass"),
        ("rankwell.models.model:Model", "abstract"),
        ("rankwell.models.wide_deep:Nothing", "no such name"),
        ("rankwell.models.nowhere:Logistic", "ModuleNotFoundError"),
        ("rankwell.models.wide_deep.Logistic", "not of the form"),
        ("rankwell.models.wide_deep:Logistic.__init__", "not of the form"),
        ("..models:Logistic", "not of the form"),
        ("/tmp/model:Logistic", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_what_is_no_model_is_refused(path: str, why: str) -> None:
    with pytest.raises(BundleError, match=why) as refused:
        class_at(path, Model)  # type: ignore[type-abstract]
    assert repr(path) in str(refused.value)
    assert "what to do" in str(refused.value)


def test_a_class_that_another_program_cannot_find_has_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(nn.Module):
        pass

    for instance in (Local(), Nested.Layer()):
        with pytest.raises(BundleError, match="top of a module"):
            class_path(instance)
    monkeypatch.setattr(Top, "__module__", "__main__")
    with pytest.raises(BundleError, match="another program could not find it"):
        class_path(Top())


def test_a_path_that_no_file_can_have_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_manifest(Path("x" * 5_000))
