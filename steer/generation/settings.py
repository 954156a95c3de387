"""How responses are generated: what a caller may choose, with defaults and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import option


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. By default nothing biases what is sampled: top_k, min_p and guidance are off."""

    temperature: float = option(1.0, "0 is greedy.", least=0)
    top_p: float = option(1.0, "Nucleus sampling.", above=0, most=1)
    top_k: int = option(0, "Draw from so many of the likeliest tokens (0: all).", least=0)
    min_p: float = option(0.0, "Leave out tokens less likely than so large a part of the likeliest.", least=0, most=1)
    max_new_tokens: int = option(256, "Longest response.", least=1)
    guidance: float = option(
        1.0, "S in log p(none) + S (log p(target) - log p(none)); 1 is no guidance, 2 about doubles the pull.", least=0
    )
    batch_size: int = option(64, "Sequences in one batch (with --guidance a response takes two).", least=1)
    seed: int = option(0, "Everything random follows from it.", least=0)
