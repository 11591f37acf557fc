"""Containers, their files, and what is known of each file: hashes, tags, metadata."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from mimetypes import guess_type
from typing import Final

from hashmill.sandbox.database import Database, as_key, stamp
from hashmill.sandbox.records import ContainerRecord, FileRecord, MetadataRecord

_CONTAINER: Final = (
    "SELECT CAST(id AS TEXT) AS id, name, description, storage_id, on_upload, creator, date_create, date_update"
    " FROM containers"
)
_FILE: Final = (
    "SELECT CAST(id AS TEXT) AS id, CAST(container_id AS TEXT) AS container_id, CAST(parent AS TEXT) AS parent,"
    " filename, fullpath, deleted, size, type, format, mime, date_create, date_update, storage_class_id FROM files"
)
_METADATA: Final = (
    "SELECT CAST(id AS TEXT) AS id, CAST(container_id AS TEXT) AS container_id, CAST(file_id AS TEXT) AS file_id,"
    " iecode, value, creator FROM metadata"
)
_PUT_FILE: Final = (
    "INSERT INTO files (container_id, parent, filename, fullpath, size, type, mime, date_create, date_update)"
    " VALUES (:container, (SELECT id FROM files WHERE container_id=:container AND fullpath=:above AND type='FOLDER'),"
    " :name, :fullpath, :size_bytes, :type, :mime, :now, :now) ON CONFLICT (container_id, fullpath, type)"
    " DO UPDATE SET size=excluded.size, deleted='0', date_update=excluded.date_update"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFound:
    """One object under a container's prefix: its path as LABDRIVE writes it (one leading slash) and its size."""

    fullpath: str
    size_bytes: int

    @property
    def is_folder(self) -> bool:
        """Whether it is an empty marker that S3 tools leave for a folder (assumed to be read so)."""
        return self.size_bytes == 0 and self.fullpath.endswith("/")


class Catalog:
    """What LABDRIVE knows of content. Ids go in and come out as strings; one that is no number finds nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_container(
        self,
        *,
        name: str,
        id: str | None = None,
        description: str = "",
        storage_id: str = "1",
        on_upload: str = "",
        creator: str = "",
    ) -> str:
        """Return the new container's id; an `id` that exists already keeps the container it has."""
        now = stamp()
        row = (as_key(id), name, description, storage_id, on_upload, creator, now, now)
        made = self._database.write("INSERT OR IGNORE INTO containers VALUES (?,?,?,?,?,?,?,?)", row)
        return id or str(made)

    def container(self, container_id: str) -> ContainerRecord | None:
        row = self._database.row(f"{_CONTAINER} WHERE id=?", (as_key(container_id),))
        return ContainerRecord(**row) if row else None

    def containers(self) -> list[ContainerRecord]:
        return [ContainerRecord(**row) for row in self._database.rows(f"{_CONTAINER} ORDER BY containers.id")]

    def put_file(self, container_id: str, fullpath: str, size_bytes: int) -> str:
        """Register one file whose content is new, and return its id. Hashes of an older content go."""
        self.put_objects(container_id, [ObjectFound(fullpath=fullpath, size_bytes=size_bytes)])
        file_id = self._id_at(container_id, fullpath, "FILE")
        self._database.write("DELETE FROM hashes WHERE file_id=?", (int(file_id),))
        return file_id

    def put_objects(self, container_id: str, objects: Sequence[ObjectFound]) -> None:
        """Register objects as files. One already known keeps its id and hashes; its size follows."""
        now, container = stamp(), int(container_id)
        rows = [
            _item(container, o.fullpath, "FILE", now) | {"size_bytes": o.size_bytes, "mime": mime_of(o.fullpath)}
            for o in objects
        ]
        self._database.write_many(_PUT_FILE, rows)

    def add_folder(self, container_id: str, fullpath: str) -> str:
        """Return the id of the folder at `fullpath`, made if it was not there."""
        folder = _item(int(container_id), fullpath, "FOLDER", stamp()) | {"size_bytes": 0, "mime": ""}
        self._database.write_many(_PUT_FILE, [folder])
        return self._id_at(container_id, fullpath, "FOLDER")

    def file(self, file_id: str) -> FileRecord | None:
        row = self._database.row(f"{_FILE} WHERE id=?", (as_key(file_id),))
        return FileRecord(**row) if row else None

    def file_at(self, container_id: str, fullpath: str) -> FileRecord | None:
        """Return the item at `fullpath`; where a file and a folder stand there, the file."""
        where = "WHERE container_id=? AND fullpath=? ORDER BY type LIMIT 1"
        row = self._database.row(f"{_FILE} {where}", (as_key(container_id), fullpath))
        return FileRecord(**row) if row else None

    def files(self, container_id: str, *, limit: int = -1, offset: int = 0) -> list[FileRecord]:
        """Return files and folders in the order of their ids; a negative `limit` means all."""
        where = "WHERE container_id=? ORDER BY files.id LIMIT ? OFFSET ?"
        return [
            FileRecord(**row) for row in self._database.rows(f"{_FILE} {where}", (as_key(container_id), limit, offset))
        ]

    def files_ending(self, container_id: str, ending: str, *, limit: int) -> list[FileRecord]:
        """Return the container's files whose path has that ending, by path, without deleted ones."""
        rows = self._database.rows(
            f"{_FILE} WHERE container_id=? AND type='FILE' AND deleted=0 AND substr(fullpath, ?)=? "
            "ORDER BY fullpath LIMIT ?",
            (as_key(container_id), -len(ending), ending, limit),
        )
        return [FileRecord(**row) for row in rows]

    def count_files(self, container_id: str) -> int:
        return self._database.count("SELECT count(*) FROM files WHERE container_id=?", (as_key(container_id),))

    def size_bytes(self, container_id: str) -> int:
        """Return the bytes of all files together."""
        sql = "SELECT coalesce(sum(size), 0) FROM files WHERE container_id=?"
        return self._database.count(sql, (as_key(container_id),))

    def set_hash(self, file_id: str, algorithm: str, digest: str) -> None:
        """Store one hash in place of an older one of the same algorithm (assumed: no page tells)."""
        row = (int(file_id), algorithm, digest, stamp())
        self._database.write("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?)", row)

    def hashes(self, file_id: str) -> dict[str, str]:
        """Return algorithm -> stored hash, in the order of the names."""
        sql = "SELECT algorithm, hash FROM hashes WHERE file_id=? ORDER BY algorithm"
        return {row["algorithm"]: row["hash"] for row in self._database.rows(sql, (as_key(file_id),))}

    def tag(self, file_id: str, tag_id: str) -> None:
        self._database.write("INSERT OR IGNORE INTO file_tags VALUES (?,?)", (int(file_id), tag_id))

    def tags(self, file_id: str) -> list[str]:
        sql = "SELECT tag_id FROM file_tags WHERE file_id=? ORDER BY tag_id"
        return [row["tag_id"] for row in self._database.rows(sql, (as_key(file_id),))]

    def set_metadata(
        self, container_id: str, file_id: str | None, *, iecode: str, value: str, replace: bool, creator: str
    ) -> None:
        """Write one value of a container (`file_id` None) or of a file, instead of the older ones or beside them."""
        owner = (int(container_id), as_key(file_id))
        if replace:
            sql = "DELETE FROM metadata WHERE container_id=? AND file_id IS ? AND iecode=?"
            self._database.write(sql, (*owner, iecode))
        sql = "INSERT INTO metadata (container_id, file_id, iecode, value, creator) VALUES (?,?,?,?,?)"
        self._database.write(sql, (*owner, iecode, value, creator))

    def metadata(self, container_id: str, file_id: str | None = None) -> list[MetadataRecord]:
        """Return the values of a container itself, or of one of its files."""
        where = "WHERE metadata.container_id=? AND metadata.file_id IS ? ORDER BY metadata.id"
        owner = (as_key(container_id), as_key(file_id))
        return [MetadataRecord(**row) for row in self._database.rows(f"{_METADATA} {where}", owner)]

    def _id_at(self, container_id: str, fullpath: str, type: str) -> str:
        sql = "SELECT id FROM files WHERE container_id=? AND fullpath=? AND type=?"
        return str(self._database.count(sql, (int(container_id), fullpath, type)))


def _item(container: int, fullpath: str, type: str, now: str) -> dict[str, str | int]:
    above, name = fullpath.rsplit("/", 1)
    return {"container": container, "above": above, "name": name, "fullpath": fullpath, "type": type, "now": now}


def mime_of(fullpath: str) -> str:
    """Return the media type that the end of the name tells, or "application/octet-stream"."""
    name = fullpath.rsplit("/", 1)[-1]
    return _mime_of_ending(name[name.rfind(".") :].lower()) if "." in name else "application/octet-stream"


@lru_cache(maxsize=1024)
def _mime_of_ending(ending: str) -> str:
    return guess_type("x" + ending)[0] or "application/octet-stream"
