import pytest

from hashmill.domain.errors import ConfigFault
from hashmill.domain.secret import Secret
from hashmill.intake.config import IntakeConfig, check_config, is_loopback

EVERYWHERE = "0.0.0.0"  # noqa: S104 - to be refused


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_only_this_machine_reaches_a_loopback_address(host: str) -> None:
    assert is_loopback(host)
    check_config(IntakeConfig(host=host, bearer_token=Secret("")))


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1 "]
)
def test_any_other_address_needs_a_token_and_says_what_to_set(host: str) -> None:
    with pytest.raises(ConfigFault, match="HASHMILL_INTAKE__BEARER_TOKEN"):
        check_config(IntakeConfig(host=host, bearer_token=Secret("")))

    check_config(IntakeConfig(host=host, bearer_token=Secret("t")))


@pytest.mark.parametrize("token", [" ", "a b", "ä", "a\n", "\x00"])
def test_a_token_that_cannot_travel_in_a_header_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ConfigFault, match="visible ASCII") as refused:
        check_config(IntakeConfig(bearer_token=Secret(f"secret{token}")))

    assert "secret" not in str(refused.value)
