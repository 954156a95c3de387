"""What a caller may choose about a server, with defaults, bounds and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import DTYPE, DTYPES, TRUST_REMOTE_CODE, option


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How requests are answered."""

    name: str = option("", "What clients call the model; default: the name of the policy's folder.")
    scorer: str = option("", "Scores responses for the page's bars: as in `steer label`.")
    batch_size: int = option(64, "Responses drawn at the same time (with guidance one takes two places).", least=1)
    max_new_tokens: int = option(256, "Longest response where a request does not say.", least=1)
    max_waiting: int = option(512, "Responses that may wait for a place; further requests get 429.", least=1)
    max_body: int = option(1_000_000, "Largest request, bytes.", least=1000)
    timeout: float = option(300.0, "Seconds that one request may take.", above=0)
    dtype: str = option("auto", DTYPE, choices=DTYPES)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE)
