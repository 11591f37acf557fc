import copy
import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.digest import DEFAULT_ALGORITHMS, KNOWN_ALGORITHMS
from hashmill.domain.errors import EventFault, EventInvalid
from hashmill.domain.event import (
    FAULTS_MAX,
    TriggerEvent,
    default_idempotency_key,
    event_digest,
    from_public,
    parse_event,
    public_event,
)
from hashmill.domain.event_wire import EventBody
from hashmill.domain.secret import Secret

KEY = "1234567890abcdefghijklmnopqrstuvwxyz"
SEED: dict[str, Any] = {
    "api": {"url": "http://labdrive.libnova.com", "key_user": KEY, "key_root": KEY},
    "labdrive": {
        "container": {"id": "1"},
        "user": {"id": "1"},
        "files": {"ids": [], "paths": []},
        "job": {"id": "299"},
        "trigger": {"id": "0", "type": "", "regex": ""},
        "function": {"id": "0", "key": ""},
    },
    "function_params": {"your_custom_parameter": "custom_parameter_value"},
}
MISSING = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The seed's event with the value at the dotted `path` replaced, or taken away."""
    event = copy.deepcopy(SEED)
    *blocks, last = path.split(".")
    block = event
    for name in blocks:
        block = block[name]
    if value is MISSING:
        del block[last]
    else:
        block[last] = value
    return event


def parse(event: object) -> TriggerEvent:
    return parse_event(json.dumps(event).encode(), known_algorithms=KNOWN_ALGORITHMS)


def faults_of(body: object) -> list[EventFault]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(EventInvalid) as caught:
        parse_event(raw, known_algorithms=KNOWN_ALGORITHMS)
    return list(caught.value.faults)


def paths_of(body: object) -> list[str]:
    return [fault.path for fault in faults_of(body)]


def test_the_seeds_event_is_read_in_full() -> None:
    assert parse(SEED) == TriggerEvent(
        api_url="http://labdrive.libnova.com",
        key_user=Secret(KEY),
        key_root=Secret(KEY),
        container_id="1",
        user_id="1",
        job_id="299",
        file_ids=(),
        file_paths=(),
        trigger_id="0",
        trigger_type="",
        trigger_regex="",
        function_id="0",
        function_key="",
        function_params={"your_custom_parameter": "custom_parameter_value"},
        algorithms=("md5", "sha1", "sha256"),
        priority=5,
        mode="hash",
    )


def test_the_least_event_has_an_address_a_key_a_container_and_a_job() -> None:
    event = parse({"api": {"url": "http://h", "key_user": "k"}, "labdrive": {"container": {"id": 1}, "job": {"id": 2}}})

    assert event == TriggerEvent(
        api_url="http://h", key_user=Secret("k"), container_id="1", job_id="2", function_params={}
    )


@pytest.mark.parametrize("empty", [None, [], {}, ""])
@pytest.mark.parametrize("block", ["user", "files", "trigger", "function"])
def test_an_empty_optional_block_counts_as_not_there(block: str, empty: object) -> None:
    assert parse(changed(f"labdrive.{block}", empty)) == parse(changed(f"labdrive.{block}", MISSING))


@pytest.mark.parametrize("empty", [None, [], {}, "", MISSING])
def test_empty_function_params_count_as_none(empty: object) -> None:
    event = parse(changed("function_params", empty))

    assert (event.function_params, event.algorithms, event.priority) == ({}, DEFAULT_ALGORITHMS, 5)


@pytest.mark.parametrize("empty", [None, "", MISSING])
def test_an_event_may_have_no_root_key(empty: object) -> None:
    assert parse(changed("api.key_root", empty)).key_root is None


def test_names_nobody_knows_are_ignored() -> None:
    event = copy.deepcopy(SEED)
    event["tomorrow"] = {"x": [1]}
    event["api"]["region"] = "eu"
    event["labdrive"]["files"]["names"] = ["\ud800"]

    assert parse(event) == parse(SEED)


def test_the_block_may_be_called_function_data() -> None:
    renamed = {("function_data" if name == "labdrive" else name): value for name, value in SEED.items()}

    assert parse(renamed) == parse(SEED)
    assert parse({**SEED, "function_data": SEED["labdrive"]}) == parse(SEED)
    assert parse({**SEED, "function_data": None}) == parse(SEED)


def test_faults_in_function_data_say_function_data() -> None:
    renamed = {"api": SEED["api"], "function_data": {**SEED["labdrive"], "job": {"id": ""}}}

    assert paths_of(renamed) == ["$.function_data.job.id"]


def test_two_blocks_that_differ_are_refused() -> None:
    assert paths_of({**SEED, "function_data": {**SEED["labdrive"], "job": {"id": "300"}}}) == ["$.function_data"]


def test_two_equal_blocks_with_a_fault_have_it_once() -> None:
    block = {**SEED["labdrive"], "job": {"id": ""}}

    assert paths_of({**SEED, "labdrive": block, "function_data": block}) == ["$.labdrive.job.id"]


@pytest.mark.parametrize(
    ("given_id", "read"), [("7", "7"), (7, "7"), ("007", "007"), (0, "0"), (-1, "-1"), ("a/b ü", "a/b ü")]
)
def test_an_id_is_a_string_whatever_the_wire_had(given_id: object, read: str) -> None:
    assert parse(changed("labdrive.job.id", given_id)).job_id == read


@pytest.mark.parametrize(
    "no_id",
    [True, False, 1.0, 1.5, None, [], {}, "", "  ", "a\nb", "a\x00", "\x85", "\ud800", "x" * 256, 10**255, 10**4000],
)
@pytest.mark.parametrize("path", ["labdrive.job.id", "labdrive.container.id"])
def test_what_is_no_id_is_refused(path: str, no_id: object) -> None:
    assert paths_of(changed(path, no_id)) == [f"$.{path}"]


def test_the_longest_ids_are_taken() -> None:
    assert parse(changed("labdrive.job.id", "x" * 255)).job_id == "x" * 255
    assert parse(changed("labdrive.job.id", 10**254)).job_id == str(10**254)


@pytest.mark.parametrize("path", ["labdrive.user.id", "labdrive.trigger.id", "labdrive.function.id"])
def test_empty_zero_and_null_ids_are_legal_where_an_id_is_optional(path: str) -> None:
    field = path.removeprefix("labdrive.").replace(".", "_")

    assert getattr(parse(changed(path, "")), field) == ""
    assert getattr(parse(changed(path, None)), field) == ""
    assert getattr(parse(changed(path, 0)), field) == "0"
    assert paths_of(changed(path, True)) == [f"$.{path}"]


@pytest.mark.parametrize("path", ["labdrive.trigger.type", "labdrive.trigger.regex", "labdrive.function.key"])
def test_trigger_and_function_texts_are_kept_as_they_came(path: str) -> None:
    field = path.removeprefix("labdrive.").replace(".", "_")

    assert getattr(parse(changed(path, "^.*\\.tiff?$\t")), field) == "^.*\\.tiff?$\t"
    assert getattr(parse(changed(path, None)), field) == ""


@pytest.mark.parametrize("path", ["labdrive.trigger.type", "labdrive.trigger.regex", "labdrive.function.key"])
@pytest.mark.parametrize("no_text", [3, [], "\x00", "x" * 4097])
def test_what_is_no_text_is_refused_where_a_text_belongs(path: str, no_text: object) -> None:
    assert paths_of(changed(path, no_text)) == [f"$.{path}"]


def test_files_keep_their_order_and_lose_duplicates() -> None:
    event = parse(changed("labdrive.files", {"ids": [3, "1", "3", 1, "01"], "paths": ["/b", "a", "b", "//b", "a/"]}))

    assert event.file_ids == ("3", "1", "01")
    assert event.file_paths == ("b", "a", "/b", "a/")


@pytest.mark.parametrize(
    "path", ["a b/ü//x", ".hidden", "%41", "+", "?#", "../x", "a\\b", "tab\there", "line\nbreak", " ", "ẞ", "\u0301"]
)
def test_odd_paths_come_through_untouched(path: str) -> None:
    assert parse(changed("labdrive.files.paths", [path])).file_paths == (path,)
    assert parse(changed("labdrive.files.paths", ["/" + path])).file_paths == (path,)


def test_each_wrong_file_is_named_by_its_place() -> None:
    wrong = {"ids": ["1", "", None, True, {}], "paths": ["ok", "", "/", "a\x00b", 4, "\udfff", "x" * 4097]}

    assert paths_of(changed("labdrive.files", wrong)) == [
        "$.labdrive.files.ids[1]",
        "$.labdrive.files.ids[2]",
        "$.labdrive.files.ids[3]",
        "$.labdrive.files.ids[4]",
        "$.labdrive.files.paths[1]",
        "$.labdrive.files.paths[2]",
        "$.labdrive.files.paths[3]",
        "$.labdrive.files.paths[4]",
        "$.labdrive.files.paths[5]",
        "$.labdrive.files.paths[6]",
    ]


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (["SHA512", "md5", "sha512"], ("sha512", "md5")),
        ("sha256, MD5,,sha256", ("sha256", "md5")),
        ("xxh3-128", ("xxh3-128",)),
        ([], DEFAULT_ALGORITHMS),
        ("", DEFAULT_ALGORITHMS),
        (" , ", DEFAULT_ALGORITHMS),
        (None, DEFAULT_ALGORITHMS),
    ],
)
def test_algorithms_come_as_a_list_or_as_one_string(asked: object, read: tuple[str, ...]) -> None:
    event = parse(changed("function_params.algorithms", asked))

    assert event.algorithms == read
    assert "algorithms" not in event.function_params


def test_an_unknown_algorithm_is_answered_with_the_known_ones() -> None:
    [fault] = faults_of(changed("function_params.algorithms", ["md5", "md6"]))

    assert fault.path == "$.function_params.algorithms"
    assert "'md6'" in fault.problem
    assert all(name in fault.problem for name in KNOWN_ALGORITHMS)


def test_which_algorithms_are_known_is_for_the_caller_to_say() -> None:
    body = json.dumps(changed("function_params.algorithms", "whirlpool")).encode()

    assert parse_event(body, known_algorithms=["whirlpool"]).algorithms == ("whirlpool",)


@pytest.mark.parametrize("wrong", [3, {"md5": True}, [1], [["md5"]], True])
def test_algorithms_of_another_shape_are_refused(wrong: object) -> None:
    assert paths_of(changed("function_params.algorithms", wrong)) == ["$.function_params.algorithms"]


@pytest.mark.parametrize(("asked", "read"), [(0, 0), (9, 9), ("3", 3), (None, 5), ("", 5)])
def test_priority_is_a_digit_and_five_when_not_given(asked: object, read: int) -> None:
    assert parse(changed("function_params.priority", asked)).priority == read


@pytest.mark.parametrize("wrong", [-1, 10, 1.0, True, "10", "x", [], "²"])
def test_any_other_priority_is_refused(wrong: object) -> None:
    assert paths_of(changed("function_params.priority", wrong)) == ["$.function_params.priority"]


def test_hash_is_the_only_mode() -> None:
    assert [parse(changed("function_params.mode", mode)).mode for mode in ("hash", "HASH ", "", None)] == ["hash"] * 4
    assert [parse(changed("function_params.mode", mode)).mode for mode in ("attest", " Attest")] == ["attest"] * 2
    assert paths_of(changed("function_params.mode", "verify")) == ["$.function_params.mode"]
    assert paths_of(changed("function_params.mode", 1)) == ["$.function_params.mode"]


def test_parameters_that_are_not_ours_are_kept_as_they_came() -> None:
    params = {"a": [1, 2.5, {"b": None}], "model_config": "x", "é ": False, "n": 2**53 - 1}

    assert parse(changed("function_params", params)).function_params == params


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"a": "\x00"}, "$.function_params.a"),
        ({"a": ["ok", "\ud800"]}, "$.function_params.a[1]"),
        ({"a b": {"c": 2**53}}, '$.function_params["a b"].c'),
        ({"a": 1e300}, "$.function_params.a"),
        ({"a": {"b\x00": 1}}, "$.function_params.a"),
    ],
)
def test_parameters_that_could_not_be_stored_exactly_are_refused(params: dict[str, Any], path: str) -> None:
    assert paths_of(changed("function_params", params)) == [path]


@pytest.mark.parametrize(
    "url", [None, 3, "", "labdrive", "ftp://h", "http://u:p@h", "http://h?x", "http://" + "h" * 4096]
)
def test_an_address_that_leads_nowhere_clear_is_refused(url: object) -> None:
    assert paths_of(changed("api.url", url)) == ["$.api.url"]


@pytest.mark.parametrize("key", [None, 3, "", "two words", "line\r\nbreak", "schlüssel", "x" * 4097, MISSING])
def test_a_key_that_cannot_be_a_header_is_refused(key: object) -> None:
    assert paths_of(changed("api.key_user", key)) == ["$.api.key_user"]


def test_every_fault_is_said_at_once() -> None:
    assert paths_of(
        {
            "api": {"url": "x"},
            "labdrive": {"container": {}, "job": 4, "trigger": "now"},
            "function_params": {"mode": "x", "algorithms": "md6", "n": 2**60},
        }
    ) == [
        "$.api.url",
        "$.api.key_user",
        "$.labdrive.container.id",
        "$.labdrive.job",
        "$.labdrive.trigger",
        "$.function_params.algorithms",
        "$.function_params.mode",
        "$.function_params.n",
    ]


def test_an_empty_object_lacks_an_address_and_a_block() -> None:
    assert paths_of({}) == ["$.api", "$.labdrive"]


def test_more_faults_than_a_hundred_are_counted() -> None:
    faults = faults_of(changed("labdrive.files.ids", [""] * 1000))

    assert len(faults) == FAULTS_MAX + 1
    assert faults[-1] == EventFault(path="$", problem="has 900 more faults")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe{\x00}\x00",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 1}',
        b'{"x": {"a": 1, "a": 2}}',
        b'{"a":' * 64 + b"{}" + b"}" * 64,
        b"[" * 1_000_000,
        b'{"a": ' + b"1" * 5000 + b"}",
        b"{} {}",
    ],
)
def test_what_is_no_json_of_ours_has_one_fault_at_the_root(body: bytes) -> None:
    assert paths_of(body) == ["$"]


def test_nesting_is_taken_down_to_the_limit_and_a_byte_order_mark_is_no_fault() -> None:
    nested = b'{"a":' * 63 + b"{}" + b"}" * 63

    assert paths_of(nested) == ["$.api", "$.labdrive"]
    assert parse_event(b"\xef\xbb\xbf" + json.dumps(SEED).encode(), known_algorithms=()) == parse(SEED)


@pytest.mark.parametrize("key", ["sécret-word", "secret word", "secret\nword"])
def test_a_fault_never_shows_a_key(key: str) -> None:
    event = changed("api.key_user", key)
    event["api"]["key_root"] = ["secret"]
    with pytest.raises(EventInvalid) as caught:
        parse(event)

    assert "secret" not in f"{caught.value}{caught.value!r}{caught.value.faults}".lower()
    assert caught.value.__cause__ is None
    assert "sécret" not in repr(caught.value.__context__)


def test_an_event_never_shows_a_key() -> None:
    event = parse(SEED)

    assert KEY not in f"{event}{event!r}{public_event(event)}{default_idempotency_key(event)}"


def test_the_digest_is_of_canonical_json_and_the_keys_have_no_part_in_it() -> None:
    event = parse(SEED)
    other_key = parse(changed("api.key_user", "another"))

    assert event_digest(event) == hashlib.sha256(rfc8785.dumps(public_event(event))).hexdigest()
    assert event_digest(event) == event_digest(other_key)
    assert event_digest(event) != event_digest(parse(changed("labdrive.files.ids", ["1"])))


@pytest.mark.parametrize(
    "path", ["labdrive.container.id", "labdrive.job.id", "labdrive.function.id", "labdrive.function.key"]
)
def test_another_job_function_or_container_is_another_delivery(path: str) -> None:
    assert default_idempotency_key(parse(changed(path, "8"))) != default_idempotency_key(parse(SEED))


def test_two_deliveries_of_one_trigger_share_their_key() -> None:
    again = changed("labdrive.files.ids", ["5"])
    again["api"]["url"] += "/api/"

    assert default_idempotency_key(parse(again)) == default_idempotency_key(parse(SEED))


def test_ids_that_run_together_make_different_keys() -> None:
    one, other = copy.deepcopy(SEED), copy.deepcopy(SEED)
    one["labdrive"]["function"] = {"id": "1", "key": "23"}
    other["labdrive"]["function"] = {"id": "12", "key": "3"}

    assert default_idempotency_key(parse(one)) != default_idempotency_key(parse(other))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
IDS = st.one_of(
    st.integers(min_value=0, max_value=2**64),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip),
)
NUMBERS = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1) | st.floats(-1e15, 1e15)
PARAMS = st.dictionaries(
    TEXTS.filter(lambda name: name not in {"algorithms", "priority", "mode"}),
    st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "api": {"url": draw(st.sampled_from(["http://h", "https://h:8/x/api/"])), "key_user": KEY},
        draw(st.sampled_from(["labdrive", "function_data"])): {
            "container": {"id": draw(IDS)},
            "job": {"id": draw(IDS)},
            "user": {"id": draw(IDS)},
            "files": {
                "ids": draw(st.lists(IDS, max_size=4)),
                "paths": draw(st.lists(TEXTS.filter(lambda path: path not in {"", "/"}), max_size=4)),
            },
            "trigger": {"id": draw(IDS), "type": draw(TEXTS), "regex": draw(TEXTS)},
            "function": {"id": draw(IDS), "key": draw(TEXTS)},
        },
        "function_params": {
            **draw(PARAMS),
            "algorithms": draw(st.lists(st.sampled_from(KNOWN_ALGORITHMS), max_size=4)),
            "priority": draw(st.integers(0, 9)),
        },
    }


@given(events())
def test_an_event_survives_storage_as_it_was(body: dict[str, Any]) -> None:
    event = parse(body)
    canonical = rfc8785.dumps(public_event(event))

    for stored in (json.dumps(public_event(event)).encode(), canonical):
        again = from_public(json.loads(stored), key_user=event.key_user, key_root=event.key_root)
        assert again == event
        assert event_digest(again) == event_digest(event)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_have_faults(body: bytes) -> None:
    assert faults_of(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLACES = ["api", "labdrive", "function_params"] + [
    f"{block}.{name}" for block in ("api", "labdrive", "function_params") for name in SEED[block]
]


@given(st.sampled_from(PLACES), JSON_VALUES)
def test_any_value_in_any_place_is_taken_and_storable_or_has_faults(place: str, value: object) -> None:
    try:
        event = parse(changed(place, value))
    except EventInvalid as error:
        refused = error
    else:
        assert from_public(public_event(event), key_user=event.key_user, key_root=event.key_root) == event
        return

    assert all(fault.path.startswith("$") and fault.problem for fault in refused.faults)


def test_the_models_describe_the_event_for_openapi() -> None:
    schema = EventBody.model_json_schema()

    assert set(schema["properties"]) == {"api", "labdrive", "function_data", "function_params"}
    assert schema["required"] == ["api"]
    assert schema["$defs"]["ApiBlock"]["properties"]["key_user"]["writeOnly"] is True
