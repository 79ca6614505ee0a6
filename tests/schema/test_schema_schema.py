"""What a schema is, and what it refuses: each refusal says what, what was found, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from every_kind_log import EVERY_KIND
from rankwell.errors import LogError, SchemaError
from rankwell.schema import (
    Action,
    Bag,
    Categorical,
    Cross,
    Exposure,
    Identity,
    Log,
    Numeric,
    PiecewiseLinear,
    Place,
    Quantiles,
    Schema,
    Sequence,
    Standardise,
    TableSpec,
    Vector,
)

CLICK = (Action(name="click"),)
JOB = Categorical(name="job")


def schema(*features: Any, **rest: Any) -> Schema:
    return Schema(**{"features": features or (JOB,), "actions": CLICK} | rest)


# --- JSON

sizes = st.sampled_from([{}, {"num_ids": 7}, {"num_rows": 2**20}])
transforms = st.sampled_from(
    [Identity(), Standardise(), Log(), Quantiles(num_buckets=7), PiecewiseLinear(num_pieces=3)]
)
sides = st.sampled_from(["request", "candidate"])
missing = st.sampled_from(["refuse", "row"])


def feature_of(name: str) -> st.SearchStrategy[Any]:
    """A feature of any kind that is called `name`."""
    column = st.sampled_from([None, f"{name}_column"])
    return st.one_of(
        st.builds(lambda size, **k: Categorical(**k, **size), sizes, name=st.just(name), on=sides, column=column,
                  missing=missing),
        st.builds(lambda size, **k: Bag(**k, **size), sizes, name=st.just(name), on=sides, column=column),
        st.builds(Numeric, name=st.just(name), on=sides, column=column, transform=transforms,
                  missing=st.sampled_from(["refuse", "indicator"])),
        st.builds(Vector, name=st.just(name), on=sides, column=column, width=st.integers(1, 9)),
        st.builds(Place, name=st.just(name), on=sides, column=column),
    )  # fmt: skip


@st.composite
def schemas(draw: Callable[..., Any]) -> Schema:
    features = [draw(feature_of(f"f{i}")) for i in range(draw(st.integers(0, 4)))]
    ids = [f.name for f in features if isinstance(f, Categorical)]
    ids += [f.name for f in features if isinstance(f, Numeric) and isinstance(f.transform, Quantiles)]
    fields = (Categorical(name="item", on="event", table="job"), Numeric(name="dwell", on="event", transform=Log()))
    history = Sequence(
        name="history", fields=fields[: draw(st.integers(1, 2))], time=draw(st.sampled_from([None, "t"]))
    )
    graded = Action(name="stars", kind="graded", threshold=0.5, gains=draw(st.sampled_from([None, (0.0, 0.1)])))
    with_attribute = draw(st.booleans())
    return Schema(
        features=(JOB, *features),
        actions=(*CLICK, graded)[: draw(st.integers(1, 2))],
        sequences=(history,) if draw(st.booleans()) else (),
        crosses=(Cross(of=tuple(ids[:6])),) if len(ids) >= 2 else (),
        tables=(TableSpec(name="job", num_rows=9),) if draw(st.booleans()) else (),
        item=draw(st.sampled_from([None, "job"])),
        time=draw(st.sampled_from([None, "when"])),
        exposure=Exposure(position=draw(st.sampled_from([None, "place"])), propensity="p"),
        bid=draw(st.sampled_from([None, "bid_micros"])),
        protected=(Categorical(name="gender", on="request"),) if with_attribute else (),
        visible_protected=("gender",) if with_attribute and draw(st.booleans()) else (),
        pii=draw(st.sampled_from([(), ("Name", "e-mail")])),
        ingest_delay_s=draw(st.floats(0, 1e6)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(schemas())
def test_json_and_back(declared: Schema) -> None:
    again = Schema.from_json(declared.to_json())
    assert again == declared
    assert again.table_specs() == declared.table_specs()
    assert again.to_json() == declared.to_json()


def test_every_kind_survives_json() -> None:
    assert Schema.from_json(EVERY_KIND.to_json()) == EVERY_KIND


def test_a_schema_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EVERY_KIND.item = "other"  # type: ignore[misc]
    assert hash(Schema.from_json(EVERY_KIND.to_json())) == hash(EVERY_KIND)


# --- what it says


def test_a_table_is_sized_once_for_all_that_read_it() -> None:
    shared = schema(
        Categorical(name="job", table="jobs", num_ids=5),
        Bag(name="seen", table="jobs", on="request"),
        Categorical(name="other"),
        Numeric(name="years", transform=Quantiles(num_buckets=3)),
        crosses=(Cross(of=("other", "years"), num_rows=9),),
    )
    assert shared.table_specs() == {
        "jobs": TableSpec(name="jobs", num_ids=5),
        "other": TableSpec(name="other", num_rows=65_536),
        "years": TableSpec(name="years", num_ids=3),
        "other_x_years": TableSpec(name="other_x_years", num_rows=9),
    }
    twice = (Categorical(name="a", table="jobs", num_ids=5), Categorical(name="b", table="jobs", num_ids=5))
    assert schema(*twice).table_specs() == {"jobs": TableSpec(name="jobs", num_ids=5)}
    # The size counts wherever it is declared: also when the one that reads without a size comes first.
    assert schema(*reversed(shared.features[:2])).table_specs()["jobs"].size == 5


def test_models_see_a_protected_attribute_only_when_it_is_named() -> None:
    gender = Categorical(name="gender", on="request", num_ids=3)
    hidden = schema(protected=(gender,))
    assert [feature.name for feature in hidden.visible_features] == ["job"]
    assert "gender" not in hidden.table_specs()
    with pytest.raises(SchemaError, match=r"(?s)no feature 'gender'; found: \['job'\].*visible_protected"):
        hidden.feature("gender")
    seen = schema(protected=(gender,), visible_protected=("gender",))
    assert seen.feature("gender") == gender
    assert seen.table_specs()["gender"].size == 3


def test_actions_have_places() -> None:
    several = schema(actions=(*CLICK, Action(name="apply")))
    assert (several.action_index("click"), several.action_index("apply")) == (0, 1)
    with pytest.raises(SchemaError, match=r"no action 'buy' in the schema; found: \['click', 'apply'\];\n.*name one"):
        several.action_index("buy")


def test_long_names_cross() -> None:
    names = [letter * 100 for letter in "abcdef"]
    crossed = schema(*(Categorical(name=name) for name in names), crosses=(Cross(of=tuple(names)),))
    assert len(crossed.crosses[0].name) == 615
    assert crossed.crosses[0].name in crossed.table_specs()


# --- gains


def test_gains_are_two_to_the_grade_minus_one_or_as_declared() -> None:
    stars = Action(name="stars", kind="graded", threshold=3)
    grades_C = torch.arange(24.0)
    assert stars.gain_of(grades_C).tolist() == [2**grade - 1 for grade in range(24)]
    assert CLICK[0].gain_of(torch.tensor([0, 1])).tolist() == [0.0, 1.0]
    own = Action(name="stars", kind="graded", threshold=1, gains=(0, 2.5, 2.5))
    assert own.gain_of(torch.tensor([2, 0, 1])).tolist() == [2.5, 0.0, 2.5]
    for action in (stars, own):
        assert action.gain_of(torch.tensor([1.0, torch.nan])).isnan().tolist() == [False, True]
        assert action.gain_of(torch.zeros(0)).shape == (0,)
    with pytest.raises(LogError, match=r"'stars': a grade has no gain; found: 3; allowed: 0 to 2.*\n.*for every grade"):
        own.gain_of(torch.tensor([3.0, 1.0]))


# --- what it refuses

HISTORY = (Categorical(name="item", on="event"),)
REFUSED: list[tuple[Callable[[], Any], str, str, str, str]] = [
    # what makes it, the thing, found, allowed, what to do
    (lambda: TableSpec(name="t"), "table 't' has no size", "None", "exactly one", "give num_ids=n where"),
    (lambda: TableSpec(name="t", num_ids=1, num_rows=2), "two sizes", "'num_ids': 1", "exactly one", "num_ids=n where"),
    (lambda: Bag(name="b", num_ids=1, num_rows=2), "feature 'b' gives its table two sizes", "2", "at most one", "keep"),
    (lambda: Categorical(name="a b"), "Categorical.name", "a b", "letters, digits and underscores", "mend"),
    (lambda: Categorical(name="a", num_rws=3), "Categorical.num_rws is no field", "3", "docstring", "correct its name"),
    (lambda: Categorical(), "Categorical.name is missing", "", "Field required", "give it"),
    (lambda: Categorical(name="a", num_ids=0), "Categorical.num_ids", "0", "greater than or equal to 1", "mend"),
    (lambda: Categorical(on="up"), "2 declarations of Categorical", "on = 'up'", "'request', 'candidate'", "mend"),
    (lambda: Action(name="c", window_s=float("inf")), "Action.window_s", "inf", "a finite number", "mend"),
    (lambda: Vector(name="v", width=0), "Vector.width", "0", "greater than or equal to 1", "mend"),
    (
        lambda: Sequence(name="h", fields=(Categorical(name="item"),)),
        "sequence 'h': field 'item' does not stand on the event", "on='candidate'", "on='event'", "with on='event'",
    ),
    (
        lambda: Sequence(name="h", fields=(*HISTORY, Numeric(name="n", on="event", transform=Quantiles()))),
        "field 'n' can't be bucketed", "Quantiles", "another transform", "declare a categorical",
    ),
    (
        lambda: Sequence(name="h", fields=(Numeric(name="n", on="event"),)),
        "sequence 'h' has no categorical field", "['n']", "at least one", "declare it",
    ),
    (
        lambda: Sequence(name="h", fields=HISTORY * 2),
        "names of fields stand twice", "['item']", "each name once", "other names",
    ),
    (
        lambda: Sequence(name="h", fields=(*HISTORY, Numeric(name="age_s", on="event"))),
        "or are taken", "['age_s']", "'age_s'", "other names",
    ),
    (
        lambda: Sequence(name="h", fields=(*HISTORY, Numeric(name="at", on="event")), time="at"),
        "or are taken", "['at']", "the time's name 'at'", "other names",
    ),
    (lambda: Cross(of=("a",)), "Cross.of", "('a',)", "at least 2", "mend"),
    (lambda: Cross(of=("a", "a")), "cross 'a_x_a' names a column twice", "['a', 'a']", "different", "once"),
    (lambda: Action(name="s", kind="graded"), "is graded and has no threshold", "", "above 0", "declare threshold="),
    (lambda: Action(name="c", threshold=1), "action 'c' is binary", "1.0", "kind='graded'", "or drop them"),
    (lambda: Action(name="c", gains=(0, 1)), "action 'c' is binary", "(0.0, 1.0)", "kind='graded'", "or drop them"),
    (
        lambda: Action(name="s", kind="graded", threshold=3, gains=(0, 1, 2)),
        "no grade that has a gain reaches the threshold", "threshold 3", "the highest grade", "give a gain",
    ),
    (lambda: schema(actions=()), "Schema.actions", "()", "at least 1 item", "mend"),
    (lambda: schema(ingest_delay_s=-1), "Schema.ingest_delay_s", "-1", "greater than or equal to 0", "mend"),
    (lambda: schema(JOB, Numeric(name="job")), "features, sequences and protected", "['job']", "once", "rename"),
    (
        lambda: schema(JOB, protected=(JOB,)),
        "features, sequences and protected", "['job']", "once", "goes into visible_protected, not into features",
    ),
    (
        lambda: schema(sequences=(Sequence(name="job", fields=HISTORY),)),
        "features, sequences and protected", "['job']", "once", "rename",
    ),
    (lambda: schema(actions=CLICK * 2), "names of actions stand twice", "['click']", "once", "rename"),
    (
        lambda: schema(tables=(TableSpec(name="job", num_ids=1),) * 2),
        "names of tables stand twice", "['job']", "once", "rename",
    ),
    (
        lambda: schema(JOB, Categorical(name="b"), crosses=(Cross(of=("job", "b")),) * 2),
        "names of crosses stand twice", "['job_x_b']", "once", "rename",
    ),
    (
        lambda: schema(Categorical(name="a", on="event")),
        "feature 'a' stands on no request and no candidate", "on='event'", "on='request'", "fields of a sequence",
    ),
    (
        lambda: schema(visible_protected=("gender",)),
        "visible_protected names what is no protected attribute", "['gender']", "[]", "declare them in `protected`",
    ),
    (lambda: schema(item="jobs"), "`item` names no categorical feature", "jobs", "['job']", "which item"),
    (
        lambda: schema(Categorical(name="member", on="request"), item="member"),
        "`item` names no categorical feature on the candidate", "member", "[]", "which item",
    ),
    (lambda: schema(Numeric(name="x"), item="x"), "`item` names no categorical", "x", "[]", "which item"),
    (
        lambda: schema(Numeric(name="x"), JOB, crosses=(Cross(of=("x", "job")),)),
        "cross 'x_x_job': 'x' is not one id", "numeric", "['job']", "transform=Quantiles()",
    ),
    (
        lambda: schema(Bag(name="x"), JOB, crosses=(Cross(of=("x", "job")),)),
        "'x' is not one id", "bag", "['job']", "cross categoricals",
    ),
    (
        lambda: schema(crosses=(Cross(of=("x", "job")),)),
        "'x' is not one id", "no feature", "['job']", "cross categoricals",
    ),
    (
        lambda: schema(protected=(Categorical(name="x"),), crosses=(Cross(of=("x", "job")),)),
        "'x' is not one id", "hidden from models", "['job']", "visible_protected shows",
    ),
    (
        lambda: schema(Categorical(name="a", table="t", num_ids=3), Bag(name="b", table="t", num_rows=3)),
        "feature 'b' gives table 't' another size", "num_rows=3 and num_ids=3", "one size", "size it once",
    ),
    (
        lambda: schema(Categorical(name="job", num_ids=3), tables=(TableSpec(name="job", num_ids=4),)),
        "feature 'job' gives table 'job' another size", "num_ids=3 and num_ids=4", "one size", "size it once",
    ),
    (
        lambda: schema(tables=(TableSpec(name="jobs", num_ids=4),)),
        "tables are declared that no column reads", "['jobs']", "['job']", "`table` of a categorical",
    ),
    (
        lambda: schema(Numeric(name="x", transform=Quantiles()), Categorical(name="b", table="x")),
        "tables of crosses or of bucketed numerics", "{'x': ['b']}", "a table of its own", "rename",
    ),
    (
        lambda: schema(JOB, Categorical(name="b"), Bag(name="job_x_b"), crosses=(Cross(of=("job", "b")),)),
        "tables of crosses or of bucketed numerics", "'job_x_b'", "a table of its own", "rename",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "what", "found", "allowed", "do"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refusals_explain_themselves(make: Callable[[], Any], what: str, found: str, allowed: str, do: str) -> None:
    with pytest.raises(SchemaError) as caught:
        make()
    error = caught.value
    assert what in error.what
    assert error.do is not None
    assert do in error.do
    assert allowed in str(error.allowed)
    assert found in str(error.found)


@pytest.mark.parametrize(
    ("make", "column"),
    [
        (lambda pii: schema(Numeric(name="secret"), pii=pii), "secret"),
        (lambda pii: schema(Numeric(name="x", column="Secret"), pii=pii), "Secret"),
        (lambda pii: schema(Place(name="secret"), pii=("SECRET_LAT",)), "secret_lat"),
        (lambda pii: schema(protected=(Categorical(name="secret"),), pii=pii), "secret"),
        (lambda pii: schema(sequences=(Sequence(name="h", fields=HISTORY),), pii=("H_item",)), "h_item"),
        (lambda pii: schema(actions=(Action(name="secret"),), pii=pii), "secret"),
        (lambda pii: schema(member_id="secret", pii=pii), "secret"),
        (lambda pii: schema(bid="secret", pii=pii), "secret"),
        (lambda pii: schema(exposure=Exposure(position="secret"), pii=pii), "secret"),
    ],
)
def test_what_names_a_person_is_read_by_nothing(make: Callable[[Any], Any], column: str) -> None:
    with pytest.raises(SchemaError, match=rf"(?s)PII.*found: \['{column}'\]; allowed: .*do: drop them from `pii`"):
        make(("SECRET",))


@pytest.mark.parametrize(
    ("make", "column", "other"),
    [
        (lambda: schema(Numeric(name="click")), "click", "feature 'click'"),
        (lambda: schema(Numeric(name="x", column="click")), "click", "feature 'x'"),
        (lambda: schema(Numeric(name="x", column="click_observed")), "click_observed", "feature 'x'"),
        (lambda: schema(Place(name="x"), actions=(Action(name="a", column="x_lat"),)), "x_lat", "feature 'x'"),
        (lambda: schema(actions=(*CLICK, Action(name="b", column="click"))), "click", "action 'b'"),
        (lambda: schema(weight="click"), "click", "weight"),
        (lambda: schema(exposure=Exposure(propensity="click")), "click", "propensity"),
        (lambda: schema(protected=(Categorical(name="x", column="click"),)), "click", "feature 'x'"),
        (
            lambda: schema(sequences=(Sequence(name="h", fields=HISTORY),), actions=(Action(name="h_item"),)),
            "h_item", "sequence 'h'",
        ),
    ],
)  # fmt: skip
def test_a_label_has_no_other_use(make: Callable[[], Any], column: str, other: str) -> None:
    with pytest.raises(SchemaError) as caught:
        make()
    assert f"column {column!r} is a label" in str(caught.value)
    assert other in str(caught.value.found)
    assert "a model that sees them has nothing to predict" in str(caught.value)
    assert "another `column`, or drop it" in str(caught.value)


def test_two_features_may_read_one_column() -> None:
    both = schema(Categorical(name="a", column="x"), Bag(name="b", column="y"), Numeric(name="c", column="x"))
    assert len(both.features) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"features": 3}', EVERY_KIND.to_json()[:-30]])
def test_what_is_no_schema(text: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.from_json(text)
    assert caught.value.do
    assert caught.value.allowed


def test_a_broken_rule_inside_json_is_told_as_outside() -> None:
    text = schema(Categorical(name="a", num_ids=3)).to_json().replace('"num_rows": null', '"num_rows": 5')
    with pytest.raises(SchemaError, match="feature 'a' gives its table two sizes"):
        Schema.from_json(text)
