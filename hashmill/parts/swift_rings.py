"""
Writes Swift's three rings, each with the one device of its store.

    python -P swift_rings.py FOLDER '{"object": 6200, "container": 6201, "account": 6202}'

A process of its own, because Swift's import brings eventlet along.
"""

import json
import sys
from pathlib import Path

from swift.common.ring import RingBuilder  # type: ignore[import-untyped]


def main() -> None:
    """Write `<store>.ring.gz` for each store and port."""
    folder = Path(sys.argv[1])
    for store, port in json.loads(sys.argv[2]).items():
        address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        builder.add_dev({"region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": "", **address})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{store}.ring.gz"))


if __name__ == "__main__":
    main()
