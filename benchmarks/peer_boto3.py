"""
The seed's loop, and the same in threads: boto3, read(8 MiB), three hashlib updates.

Runs in the peers' environment, so it imports nothing of the project. One JSON order a line on standard input, one
answer a line on standard output; what is opened stays open between two orders.
"""

import hashlib
import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

BLOCK_BYTES = 8 * 1024 * 1024


def main() -> None:
    endpoint_url, threads = sys.argv[1], int(sys.argv[2])
    # known: a client of boto3 may be shared by threads (boto3's guide, "Multithreading or multiprocessing").
    client = boto3.client("s3", endpoint_url=endpoint_url, config=Config(max_pool_connections=max(10, threads)))

    def digest(where: tuple[str, str]) -> dict[str, str]:
        bucket, key = where
        stream = client.get_object(Bucket=bucket, Key=key)["Body"]
        md5, sha1, sha256 = hashlib.md5(), hashlib.sha1(), hashlib.sha256()  # noqa: S324 - as the seed has it
        block = stream.read(BLOCK_BYTES)
        while block:
            md5.update(block)
            sha1.update(block)
            sha256.update(block)
            block = stream.read(BLOCK_BYTES)
        return {"md5": md5.hexdigest(), "sha1": sha1.hexdigest(), "sha256": sha256.hexdigest()}

    pool = ThreadPoolExecutor(threads)
    print("ready", flush=True)
    for line in sys.stdin:
        order: Any = json.loads(line)
        places = [(order["bucket"], key) for key in order["keys"]]
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        found = list(map(digest, places) if threads == 1 else pool.map(digest, places))
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
        rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"wall_s": wall_s, "cpu_s": cpu_s, "rss_mib": rss_mib, "digests": found}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
