"""Which calls a fault meets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.sandbox import FaultAction, FaultRule
from hashmill.sandbox.faults import FaultInvalid, Faults, read_rules


@given(after=st.integers(0, 5), times=st.none() | st.integers(0, 5), calls=st.integers(0, 15))
def test_a_rule_skips_the_first_calls_and_then_meets_as_many_as_it_may(
    after: int, times: int | None, calls: int
) -> None:
    faults = Faults()
    faults.set([FaultRule(action=FaultAction.STATUS, after=after, times=times)])

    met = [faults.next_for("GET", "/api/file/1") is not None for _ in range(calls)]

    expected = [after <= at and (times is None or at < after + times) for at in range(calls)]
    assert met == expected


def test_method_and_path_narrow_a_rule() -> None:
    faults = Faults()
    faults.set([FaultRule(action=FaultAction.HTML, method="put", path_regex=r"/hash$")])

    assert faults.next_for("PUT", "/api/file/1/hash") is not None
    assert faults.next_for("GET", "/api/file/1/hash") is None
    assert faults.next_for("PUT", "/api/file/1/hash/x") is None


def test_the_first_rule_that_still_may_decides() -> None:
    faults = Faults()
    faults.set(
        [FaultRule(action=FaultAction.STATUS, code=429, times=1), FaultRule(action=FaultAction.STATUS, code=503)]
    )

    met = [faults.next_for("GET", "/api/x") for _ in range(3)]

    assert [rule.code for rule in met if rule] == [429, 503, 503]


def test_cleared_faults_meet_nobody() -> None:
    faults = Faults()
    faults.set([FaultRule(action=FaultAction.HANG)])
    faults.clear()

    assert faults.next_for("GET", "/api/x") is None


def test_a_rule_reads_from_json_with_its_match() -> None:
    rules = read_rules(
        [
            {
                "match": {"method": "POST", "path_regex": "/message$"},
                "times": 2,
                "after": 1,
                "action": "status",
                "code": 503,
                "headers": {"Retry-After": "1"},
            },
            {"action": "delay", "delay_s": 0.5, "match": {"method": None, "path_regex": None}},
        ]
    )

    assert rules == [
        FaultRule(
            action=FaultAction.STATUS,
            method="POST",
            path_regex="/message$",
            times=2,
            after=1,
            code=503,
            headers={"Retry-After": "1"},
        ),
        FaultRule(action=FaultAction.DELAY, delay_s=0.5),
    ]


def test_a_cut_or_late_answer_had_taken_effect_and_another_had_not_unless_said() -> None:
    effective = {action: FaultRule(action=action).effective for action in FaultAction}

    assert [action for action, took in effective.items() if took] == [FaultAction.CUT, FaultAction.DELAY]
    assert FaultRule(action=FaultAction.STATUS, takes_effect=True).effective
    assert not FaultRule(action=FaultAction.CUT, takes_effect=False).effective


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [1],
        [{}],
        [{"action": "explode"}],
        [{"action": "html", "match": 1}],
        [{"action": "html", "match": {"path_regex": "("}}],
        [{"action": "html", "match": {"path_regex": 5}}],
        [{"action": "html", "times": "2"}],
        [{"action": "html", "after": -1}],
        [{"action": "status", "code": 99}],
        [{"action": "status", "headers": []}],
        [{"action": "delay", "delay_s": "1"}],
        [{"action": "html", "colour": "red"}],
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(wrong: object) -> None:
    with pytest.raises(FaultInvalid):
        read_rules(wrong)
