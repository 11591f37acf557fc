"""
Real neighbours, started by us as child processes: Redis or Valkey, an S3 server, PostgreSQL.

For the demo, `hashmill up` on one machine, and the tests. Each listens on a free loopback port, keeps everything it
writes below the folder it is given, and never outlives the process that started it.
"""
