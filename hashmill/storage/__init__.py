"""Floor 1: S3. One client per endpoint and credentials; the blocks of one object, pinned and resumed."""
