"""The tree of errors is the one that its docstring draws."""

from __future__ import annotations

import copy
import re

import pytest

import rankwell.errors
from rankwell.errors import LogError, RankwellError, RankwellWarning

CLASSES = {name: thing for name, thing in vars(rankwell.errors).items() if isinstance(thing, type) and name[0] != "_"}


def drawn() -> dict[str, str | None]:
    """Class to parent, as the docstring's two trees say."""
    assert rankwell.errors.__doc__ is not None
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in rankwell.errors.__doc__.splitlines():
        found = re.match(r"^    ([│├└─ ]*)(Rankwell\w+|\w+Error|\w+Warning)\b", line)
        if not found:
            continue
        depth, name = len(found[1]), found[2]
        above = [(d, n) for d, n in above if d < depth]
        parents[name] = above[-1][1] if above else None
        above.append((depth, name))
    return parents


def test_the_tree_is_as_drawn() -> None:
    roots = {RankwellError: None, RankwellWarning: None}
    real = {name: roots.get(thing, thing.__bases__[0].__name__) for name, thing in CLASSES.items()}
    assert drawn() == real
    assert all(len(thing.__bases__) == 1 for thing in CLASSES.values())
    assert (RankwellError.__base__, RankwellWarning.__base__) == (Exception, UserWarning)


def test_all_is_all_that_can_be_seen() -> None:
    assert sorted(rankwell.errors.__all__) == sorted(CLASSES)
    assert list(rankwell.errors.__all__) == sorted(rankwell.errors.__all__)
    assert all(thing.__doc__ for thing in CLASSES.values())


def test_each_line_of_the_drawing_says_what_the_class_is_for() -> None:
    assert rankwell.errors.__doc__ is not None
    for name in set(CLASSES) - {"RankwellError", "RankwellWarning"}:
        assert re.search(rf"{name} +[a-z]+ \w+", rankwell.errors.__doc__), name


@pytest.mark.parametrize("kind", [thing for thing in CLASSES.values() if issubclass(thing, RankwellError)])
def test_a_message_answers_the_questions_that_were_answered(kind: type[RankwellError]) -> None:
    assert str(kind("it")) == "it"
    assert str(kind("it", found=0)) == "it; found: 0"
    assert str(kind("it", found=[], allowed="two")) == "it; found: []; allowed: two"
    assert str(kind("it", do="mend it")) == "it;\n    what to do: mend it"
    whole = kind("it", found="a", allowed="b", do="c")
    assert str(whole) == "it; found: a; allowed: b;\n    what to do: c"
    assert (whole.what, whole.found, whole.allowed, whole.do) == ("it", "a", "b", "c")


def test_long_things_are_cut() -> None:
    text = str(LogError("it", found=list(range(10_000))))
    assert len(text) < 330
    assert text.endswith(" …")


def test_an_error_can_be_copied_into_another_process() -> None:
    error = LogError("it", found="a", allowed="b", do="c")
    assert str(copy.copy(error)) == str(error)
