"""What an answer's JSON means: fields found by the wire table, values read leniently, never guessed."""

import re
from collections.abc import Mapping
from typing import Any

from hashmill.domain.remote import RemoteContainer, RemoteFile, RemoteKind, RemoteMessage
from hashmill.domain.text import unstorable
from hashmill.labdrive.wire import Marked, WireTable


class ShapeWrong(ValueError):
    """An answer is not shaped as the wire table says; the text names the field."""


def dig(value: Any, dotted: str) -> Any:
    """Return what is at the dotted path in `value`, `value` itself for "", or None when it is not there."""
    for name in dotted.split(".") if dotted else ():
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def succeeded(flag: Any) -> bool | None:
    """Return what the envelope's success field says, or None when it says nothing readable.

    inferred: the platform is PHP, which may write a boolean as a number or a numeric string.
    """
    if isinstance(flag, str):
        flag = flag.strip().lower()
    if flag in (True, "true", "1"):
        return True
    if flag in (False, "false", "0"):
        return False
    return None


def read_file(item: Any, wire: WireTable, *, container_id: str | None = None) -> RemoteFile:
    """Return the file in `item`. `container_id` is whose listing it came from, for items that do not say.

    An item without a type counts as a file: reading it from S3 tells.
    """
    fields = wire.file
    path = _text(item, fields.path)
    if path is None:
        raise ShapeWrong(f"an item has no {fields.path.value!r}")
    owner = _id(item, fields.container_id) or container_id
    if owner is None:
        raise ShapeWrong(f"an item has no {fields.container_id.value!r}")
    return RemoteFile(
        file_id=_required_id(item, fields.id),
        container_id=owner,
        path=path.removeprefix("/"),
        size_bytes=_size(item, fields.size),
        kind=_kind(item, wire),
        deleted=_flag(item, fields.deleted),
        storage_class_id=_id(item, fields.storage_class_id),
    )


def read_files(items: Any, wire: WireTable, *, container_id: str) -> tuple[RemoteFile, ...]:
    """Return the files of a listing.

    Null is no listing: a wrong name in the wire table must not look like an empty container.
    """
    if not isinstance(items, list):
        raise ShapeWrong("a listing is no list")
    return tuple(read_file(item, wire, container_id=container_id) for item in items)


def read_messages(items: Any, wire: WireTable) -> tuple[RemoteMessage, ...]:
    """Return the messages of a job's listing."""
    fields = wire.message
    if not isinstance(items, list) or fields is None:
        raise ShapeWrong("a listing is no list")
    return tuple(
        RemoteMessage(
            text=_text(item, fields.text) or "", type=_text(item, fields.type), file_id=_id(item, fields.file_id)
        )
        for item in items
    )


def read_container(item: Any, wire: WireTable) -> RemoteContainer:
    """Return the container in `item`."""
    return RemoteContainer(
        container_id=_required_id(item, wire.container.id), storage_id=_id(item, wire.container.storage_id)
    )


def read_metadata(items: Any) -> list[Any] | None:
    """Return a file's metadata entries, or None when there are none."""
    if items is None or items == {}:
        return None
    if not isinstance(items, list):
        raise ShapeWrong("metadata is no list")
    return items or None


def _field(item: Any, field: Marked) -> Any:
    if not isinstance(item, Mapping):
        raise ShapeWrong("an item is no object")
    return dig(item, field.value) if field.value else None


def _text(item: Any, field: Marked) -> str | None:
    value = _field(item, field)
    if value is None or (isinstance(value, str) and not unstorable(value)):
        return value
    raise ShapeWrong(f"{field.value!r} is no text")


def _id(item: Any, field: Marked) -> str | None:
    value = _field(item, field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(item, field) or None


def _required_id(item: Any, field: Marked) -> str:
    value = _id(item, field)
    if value is None:
        raise ShapeWrong(f"an item has no {field.value!r}")
    return value


SIZE_MAX_BYTES = 2**53 - 1
"""The largest number every JSON reader keeps exactly (RFC 8259, 6), and so the largest an entry can tell."""


def _size(item: Any, field: Marked) -> int | None:
    value = _field(item, field)
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        # No object is that large: the size counts as unknown, and the file is read all the same.
        return value if value <= SIZE_MAX_BYTES else None
    raise ShapeWrong(f"{field.value!r} is no size in bytes")


def _flag(item: Any, field: Marked) -> bool:
    # Anything but a plain no is a yes: a platform may write the date of the deletion.
    return _field(item, field) not in (None, False, 0, "", "0", "false")


def _kind(item: Any, wire: WireTable) -> RemoteKind:
    value = _text(item, wire.file.type)
    if value is None:
        return RemoteKind.FILE
    for kind, marked in wire.item_types.items():
        if value == marked.value:
            return kind
    raise ShapeWrong(f"{wire.file.type.value!r} is none of the item_types")
