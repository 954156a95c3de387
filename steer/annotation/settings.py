"""Settings of labelling pairs."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import HELD_OUT, LIMIT, SEED, SHARE, TRUST_REMOTE_CODE, option

PAIRS = "Pairs"


@dataclass(frozen=True, kw_only=True)
class AnnotateSettings:
    """Settings of `annotate`, apart from its rows and annotator."""

    pairs_per_prompt: int = option(1, "Pairs of a prompt's different responses, drawn by --seed (0: all).", least=0)
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1)
    shard_size: int = option(500, "Pairs compared between two resume points.", least=1)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE)
