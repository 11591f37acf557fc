"""A third party's package that brings algorithms: written into a folder, for pip to install or for Python to find."""

from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "adler-for-hashmill"
version = "1.0"
[project.entry-points."hashmill.algorithms"]
adler32 = "adler_for_hashmill:Adler"
adler-raises = "adler_for_hashmill:Raises"
adler-hangs = "adler_for_hashmill:Hangs"
"""
MODULE = """
import threading, zlib
class Adler:
    def __init__(self): self.value = 1
    def update(self, block): self.value = zlib.adler32(block, self.value)
    def hexdigest(self): return f"{self.value:08x}"
class Raises(Adler):
    def update(self, block): raise ZeroDivisionError("by design")
class Hangs(Adler):
    def update(self, block): threading.Event().wait()
"""


def write_project(folder: Path) -> Path:
    """Return the folder of a project that pip can install."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "adler_for_hashmill.py").write_text(MODULE)
    return folder


def lay_down(folder: Path, points: dict[str, str], *, module: str, name: str = "third-party") -> None:
    """Put what an installer would into `folder`: a module `third_party`, and entry points by name."""
    about = folder / f"{name.replace('-', '_')}-2.0.dist-info"
    about.mkdir(parents=True)
    (folder / "third_party.py").write_text(module)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    lines = "".join(f"{point} = third_party:{target}\n" for point, target in points.items())
    (about / "entry_points.txt").write_text(f"[hashmill.algorithms]\n{lines}")
