"""Floor 1: the LABDRIVE REST API. Its paths and names stand in `config/labdrive.toml`, nowhere here."""
