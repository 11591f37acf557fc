"""
The names of LABDRIVE's Python library, for notebooks and functions: `libnova.Labdrive` and `libnova.Util`.

The vendor's library is not public. This one is written from the vendor's published pages and runs the code they show;
what they do not show (every path, every field) stands in `labdrive.toml` beside this file and can be corrected there.

Environment, which always wins over what an event says:

    LIBNOVA_API_URL          address of LABDRIVE
    LIBNOVA_API_KEY          the user's API key
    LIBNOVA_S3_ENDPOINT_URL  address of the S3 server; without one it is AWS
    LIBNOVA_S3_BUCKET        bucket of the files
    LIBNOVA_S3_ADDRESSING    path | virtual | auto
    LIBNOVA_TABLE            a file whose lines replace those of `labdrive.toml`
    LIBNOVA_EVENT            a file with the event that a Request reads, whatever it is given
    LIBNOVA_CAPTURE          a file that takes what would be told to LABDRIVE: job states, messages and hashes
    LIBNOVA_PROGRESS         1: progress bars everywhere; 0: none; else in a notebook only

The S3 key pair and region are found as every AWS tool finds them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_DEFAULT_REGION, or a profile).
"""

from libnova._guard import OURS as WHOSE
from libnova._guard import others, refusal

if _others := others():
    raise ImportError(refusal(_others))

from libnova import Labdrive, Util  # after the question: nothing of ours runs beside another one

__all__ = ["WHOSE", "Labdrive", "Util"]
