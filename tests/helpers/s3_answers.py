"""What botocore raises for an answer."""

from collections.abc import Mapping

from botocore.exceptions import ClientError


def client_error(
    status: int, code: str | None = None, *, headers: Mapping[str, str] | None = None, **details: str
) -> ClientError:
    """Build the error botocore raises; without `code` as for a HEAD, whose answers have no body."""
    answer = {
        "Error": {"Code": code or str(status), "Message": "m", **details},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": dict(headers or {})},
    }
    return ClientError(answer, "GetObject")
