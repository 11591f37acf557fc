"""Where the application directory is."""

from pathlib import Path


def app_home() -> Path:
    """Return the directory that holds `worker`, `tasks`, `config` and `migrations`.

    In a checkout that is the repository root; in an installed wheel the four folders are
    carried inside the package as `hashmill/_app`.
    """
    package = Path(__file__).resolve().parent
    carried = package / "_app"
    return carried if carried.is_dir() else package.parent
