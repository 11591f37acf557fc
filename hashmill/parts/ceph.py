"""Ceph's radosgw."""

from pathlib import Path

from hashmill.parts.process import Child

PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")


class Cluster:
    """To come."""

    children: list[Child]
    access_key_id = ""
    secret_access_key = ""
    endpoint_url = ""

    def __init__(self, folder: Path) -> None:
        self.children = []

    def start(self) -> None:
        """Start it."""
