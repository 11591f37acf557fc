"""
The pages of a container's notebooks: list, open, a new one from a template, and upload.

Known: a notebook is an ordinary file of the container; who opens one needs an active API key and S3 credentials, else
LABDRIVE answers 403. The pages of a double know no login, so that each says whose eyes it is seen with.
"""

import json
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, NoReturn

from aiohttp import web

from hashmill.sandbox.config import UserConfig
from hashmill.sandbox.envelope import Refused, text_of
from hashmill.sandbox.markup import Frame, file_path, link_cell, number_cell, section, table, text_cell
from hashmill.sandbox.objects import StorageFault, object_key
from hashmill.sandbox.platform import Platform
from hashmill.sandbox.records import ContainerRecord
from hashmill.sandbox.uploads import Chunk, path_below

ENDING: Final = ".ipynb"
LISTED_MAX: Final = 1000
SHOWN_MAX_CHARS: Final = 2 * 1024 * 1024
NAME_MAX_CHARS: Final = 200
UPLOAD_MAX_BYTES: Final = 32 * 1024 * 1024
TEMPLATE: Final = Path(__file__).parent / "page" / "template.ipynb"


class NotebookPages:
    """Handlers of these pages."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._frame = Frame()

    def routes(self) -> list[web.RouteDef]:
        notebooks = "/containers/{container_id}/notebooks"
        return [
            web.get(notebooks, self._shown(self.list)),
            web.get(notebooks + "/{file_id}", self._shown(self.open)),
            web.post(notebooks + "/new", self._shown(self.create)),
            web.post(notebooks + "/upload", self._shown(self.upload)),
        ]

    def _shown(self, handler: Any) -> Any:
        """Return the handler with what it refuses as a page."""

        async def shown(request: web.Request) -> web.StreamResponse:
            above = [("/", "Containers")]
            try:
                user = self._user(request)
                container = self._platform.container(user, request.match_info["container_id"])
                above.append((f"/containers/{container.id}", container.name))
                above.append((_address(container, user), "Notebooks"))
                answer: web.StreamResponse = await handler(request, user, container)
            except Refused as refused:
                title = {403: "403 Forbidden", 404: "Not found"}.get(refused.status, "Refused")
                body = f"<p>{escape(refused.message)}</p>"
                return self._frame.page(title, above, body, status=refused.status)
            except StorageFault as fault:
                return self._frame.page("The storage", above, f"<p>{escape(str(fault))}</p>", status=502)
            return answer

        return shown

    async def list(self, request: web.Request, user: UserConfig, container: ContainerRecord) -> web.Response:
        found = self._platform.catalog.files_ending(container.id, ENDING, limit=LISTED_MAX)
        rows = [
            [
                link_cell(_address(container, user, file.id), file.fullpath, name=True),
                number_cell(file.size),
                text_cell(file.date_update, quiet=True),
                link_cell(file_path(file), "as a file"),
            ]
            for file in found
        ]
        users = " ".join(
            f'<a href="{escape(_address(container, one))}">{escape(one.name)}</a>' if one is not user
            else f"<strong>{escape(one.name)}</strong>"
            for one in self._platform.config.users
            if {"*", container.id} & set(one.containers)
        )  # fmt: skip
        new = (
            f'<form method="post" action="{escape(_address(container, user, "new"))}">'
            f'<label>New dynamic notebook <input name="name" required maxlength="{NAME_MAX_CHARS}"></label> '
            "<button>Create</button></form>"
        )
        upload = (
            f'<form method="post" enctype="multipart/form-data" action="{escape(_address(container, user, "upload"))}">'
            f'<label>Upload a notebook <input type="file" name="file" accept="{ENDING}" required></label> '
            '<label><input type="checkbox" name="replace" value="yes"> replace one of that name</label> '
            "<button>Upload</button></form>"
        )
        body = (
            f"<p>Seen as: {users}</p>"
            + section(f"Notebooks ({len(rows):,})", table(["Path", "#Bytes", "Updated", ""], rows))
            + section("Add one", new + upload)
        )
        above = [("/", "Containers"), (f"/containers/{container.id}", container.name)]
        return self._frame.page(f"Notebooks of {container.name}", above, body)

    async def open(self, request: web.Request, user: UserConfig, container: ContainerRecord) -> web.Response:
        may_open(user)
        file = self._platform.catalog.file(request.match_info["file_id"])
        if file is None or file.container_id != container.id or not file.fullpath.endswith(ENDING):
            raise Refused(404, "There is no such notebook.")
        content = await self._platform.objects[container.storage_id].get(
            object_key(container.id, file.fullpath), max_bytes=UPLOAD_MAX_BYTES + 1
        )
        if len(content) > UPLOAD_MAX_BYTES:
            raise Refused(422, "This notebook is too long to be shown here.")
        body, room = "", SHOWN_MAX_CHARS
        for kind, source in cells_of(content):
            body += section(kind.capitalize(), f"<pre><code>{escape(source[:room])}</code></pre>")
            if (room := room - len(source)) < 0:
                body += "<p>The rest is not shown.</p>"
                break
        hint = (
            "<p>To run it: open it in Jupyter with the library of the same names as LABDRIVE's, and set "
            "<code>LIBNOVA_API_URL</code>, <code>LIBNOVA_API_KEY</code> and the S3 key pair of this user.</p>"
        )
        above = [
            ("/", "Containers"),
            (f"/containers/{container.id}", container.name),
            (_address(container, user), "Notebooks"),
        ]
        return self._frame.page(file.fullpath, above, hint + body)

    async def create(self, request: web.Request, user: UserConfig, container: ContainerRecord) -> NoReturn:
        _same_site(request)
        may_write(user)
        name = _name_of(text_of(dict(await request.post()), "name"))
        fullpath = path_below("", name)
        if self._platform.catalog.file_at(container.id, fullpath) is not None:
            raise Refused(409, f"There is a file {fullpath} already.")
        text = TEMPLATE.read_text(encoding="utf-8").replace("CONTAINER_ID", container.id).replace("USER_ID", user.id)
        await self._stored(user, container, fullpath, text.encode())

    async def upload(self, request: web.Request, user: UserConfig, container: ContainerRecord) -> NoReturn:
        _same_site(request)
        may_write(user)
        if (request.content_length or 0) > UPLOAD_MAX_BYTES:
            raise Refused(413, f"A notebook of more than {UPLOAD_MAX_BYTES:,} bytes is not taken here.")
        form = dict(await request.post())
        field = form.get("file")
        if not isinstance(field, web.FileField):
            raise Refused(422, "No file was chosen.")
        with field.file as sent:
            content = sent.read()
        cells_of(content)
        fullpath = path_below("", _name_of(field.filename))
        if "replace" not in form and self._platform.catalog.file_at(container.id, fullpath) is not None:
            raise Refused(409, f"There is a file {fullpath} already. Choose to replace it, or another name.")
        await self._stored(user, container, fullpath, content)

    async def _stored(self, user: UserConfig, container: ContainerRecord, fullpath: str, content: bytes) -> NoReturn:
        with NamedTemporaryFile(prefix="sandbox-notebook-", delete=False) as body:
            body.write(content)
        file = await self._platform.store(
            user, container, Chunk(fullpath=fullpath, index=0, count=1, body=Path(body.name))
        )
        assert file is not None  # noqa: S101 - it was one chunk of one
        raise web.HTTPSeeOther(_address(container, user, file.id))

    def _user(self, request: web.Request) -> UserConfig:
        """Return whose eyes see the page: the user named in the address, or the first who may open notebooks."""
        users = self._platform.config.users
        asked = request.query.get("user")
        found = [one for one in users if (one.id == asked if asked else one.key and one.s3_key_pair)]
        if not found:
            raise Refused(404, "There is no such user.")
        return found[0]


def may_open(user: UserConfig) -> None:
    """Refuse who has not made what a notebook needs (known: 403 without an API key and S3 credentials)."""
    missing = [what for what, there in (("API key", user.key), ("S3 credentials", user.s3_key_pair)) if not there]
    if missing:
        raise Refused(
            403,
            f"{user.name} has no {' and no '.join(missing)}. A notebook works with the user's own API key and S3 "
            "credentials: make them under the user name, Access Methods, and open it again.",
        )


def may_write(user: UserConfig) -> None:
    """Refuse who may not put a notebook into a container."""
    may_open(user)
    if user.rights == "read":
        raise Refused(403, f"{user.name} may only read.")


def cells_of(content: bytes) -> list[tuple[str, str]]:
    """Return kind and source of each cell; refuse what is no notebook (nbformat 4)."""
    try:
        told = json.loads(content)
        if told["nbformat"] != 4:
            raise Refused(422, "This notebook is not of nbformat 4.")
        return [
            (
                _shown(cell["cell_type"]),
                _shown("".join(source) if isinstance(source := cell["source"], list) else source),
            )
            for cell in told["cells"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(422, "This is no notebook: JSON with nbformat and cells was expected.") from error


def _shown(text: str) -> str:
    """Return a text of a notebook as a page can be sent: JSON can hold half of a surrogate pair, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _name_of(given: str) -> str:
    """Return a name for a notebook, with its ending; refuse what would be a path."""
    name = given.strip()
    if (
        not name
        or len(name) > NAME_MAX_CHARS
        or "/" in name
        or "\\" in name
        or not name.isprintable()
        or name.strip(".") == ""
    ):
        raise Refused(422, f"A notebook's name is one name of at most {NAME_MAX_CHARS} characters, without a slash.")
    return name if name.endswith(ENDING) else name + ENDING


def _same_site(request: web.Request) -> None:
    """Refuse a form that another site's page sent: this page asks nobody for a password."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise Refused(403, "This form was sent by another site.")


def _address(container: ContainerRecord, user: UserConfig, what: str = "") -> str:
    return f"/containers/{container.id}/notebooks{f'/{what}' if what else ''}?user={user.id}"
