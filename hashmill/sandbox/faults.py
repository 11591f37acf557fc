"""Trouble on request: which calls are met by which fault, and how often."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any


class FaultAction(StrEnum):
    """What may happen to a call instead of its answer."""

    STATUS = "status"  # another HTTP status, with headers and a body of choice
    HTML = "html"  # a page, as a proxy in front of the API would show
    NOT_JSON = "not_json"  # the right content type, and no JSON in it
    HANG = "hang"  # no answer, as long as the sandbox lives
    CUT = "cut"  # half an answer, then the connection closes
    DELAY = "delay"  # the right answer, after delay_s


class FaultInvalid(ValueError):
    """A fault rule that cannot be meant; the message says what may stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One rule: calls that match, without the first `after` of them, meet `action`; `times` of them, or all (None).

    `path_regex` is searched in the path as it was sent (percent-encoded, without the query).
    `takes_effect` says whether the call is carried out before its answer goes wrong; None means as the action
    suggests: a cut or delayed answer had been carried out, all others had not. `delay_s` goes with any action.
    """

    action: FaultAction
    method: str | None = None
    path_regex: str = ""
    times: int | None = None
    after: int = 0
    code: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    delay_s: float = 0.0
    takes_effect: bool | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "action", FaultAction(self.action))
        except ValueError as error:
            raise FaultInvalid(f"action is one of {', '.join(FaultAction)}, not {self.action!r}") from error
        try:
            re.compile(self.path_regex)
        except (re.error, TypeError) as error:
            raise FaultInvalid(f"path_regex is no regular expression: {error}") from error
        counts = (self.after, self.code) if self.times is None else (self.after, self.code, self.times)
        if not all(type(count) is int and count >= 0 for count in counts) or not 100 <= self.code <= 599:
            raise FaultInvalid("after and times are whole numbers, code is an HTTP status")
        if type(self.delay_s) not in (int, float) or not isinstance(self.headers, Mapping):
            raise FaultInvalid("delay_s is a number, headers is an object")

    @property
    def effective(self) -> bool:
        """Whether the call is carried out."""
        if self.takes_effect is None:
            return self.action in (FaultAction.CUT, FaultAction.DELAY)
        return self.takes_effect


@dataclass(slots=True, kw_only=True)
class _Armed:
    rule: FaultRule
    seen: int = 0
    met: int = 0

    def meets(self, method: str, path: str) -> bool:
        if (self.rule.method and self.rule.method.upper() != method) or not re.search(self.rule.path_regex, path):
            return False
        if self.rule.times is not None and self.met >= self.rule.times:
            return False
        self.seen += 1
        if self.seen <= self.rule.after:
            return False
        self.met += 1
        return True


class Faults:
    """The rules in force. The first that meets a call decides; none costs nothing."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def set(self, rules: Sequence[FaultRule]) -> None:
        """Put these rules in place of all others, their counts at zero."""
        self._armed = [_Armed(rule=rule) for rule in rules]

    def clear(self) -> None:
        self._armed = []

    def next_for(self, method: str, path: str) -> FaultRule | None:
        """Return the rule that meets this call, and count it."""
        return next((armed.rule for armed in self._armed if armed.meets(method, path)), None)

    def report(self) -> list[dict[str, Any]]:
        """Return each rule with how many calls matched (`seen`) and how many it met (`met`), ready for JSON."""
        return [asdict(armed.rule) | {"seen": armed.seen, "met": armed.met} for armed in self._armed]


def read_rules(body: object) -> list[FaultRule]:
    """Return the rules of a JSON list: `{"match": {"method", "path_regex"}, "action", "times", "after", ...}`."""
    if not isinstance(body, list):
        raise FaultInvalid("a list of rules is needed")
    return [_read_rule(item) for item in body]


def _read_rule(item: object) -> FaultRule:
    if not isinstance(item, dict) or not isinstance(item.get("match", {}), dict):
        raise FaultInvalid("a rule is an object, and so is its match")
    values = {name: value for name, value in item.items() if name != "match"} | item.get("match", {})
    if unknown := sorted(values.keys() - {known.name for known in fields(FaultRule)}):
        raise FaultInvalid(f"unknown in a rule: {', '.join(unknown)}")
    if "action" not in values:
        raise FaultInvalid(f"action is missing: one of {', '.join(FaultAction)}")
    if values.get("path_regex") is None:
        values.pop("path_regex", None)
    return FaultRule(**values)
