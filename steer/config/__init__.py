"""A frozen dataclass per command: what `--config` reads and a run folder's config.json holds."""
