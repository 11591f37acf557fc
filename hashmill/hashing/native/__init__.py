"""The native kernel in C, and what compiles it. Nothing here is imported to hash: that is `hashmill.hashing.fused`."""
