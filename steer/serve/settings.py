"""Settings of the server, with defaults, bounds and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.generation.settings import AskedSampling
from steer.settings import DTYPE, DTYPES, TRUST_REMOTE_CODE, option

ADDRESS, PAGE, LIMITS, WEIGHTS = "Address", "Names and page", "Limits", "Weights"  # panels of --help


@dataclass(frozen=True, kw_only=True)
class ServeSettings(AskedSampling):
    """Settings of answering requests."""

    name: str = option("", "What clients call the model; default: the name of the policy's folder.", panel=PAGE)
    scorer: str = option(
        "",
        "Scores responses for the page's bars: as in `steer label`; default: what labelled the policy's rows, if that "
        "only counts.",
        panel=PAGE,
    )
    batch_size: int = option(
        64, "Responses drawn at the same time (with guidance one takes two places).", least=1, panel=LIMITS
    )
    max_new_tokens: int = option(256, "Longest response where a request does not say.", least=1, panel=LIMITS)
    max_waiting: int = option(
        512, "Responses that may wait for a place; further requests get 429.", least=1, panel=LIMITS
    )
    max_body: int = option(1_000_000, "Largest request, bytes.", least=1000, panel=LIMITS)
    timeout: float = option(300.0, "Seconds that one request may take.", above=0, panel=LIMITS)
    dtype: str = option("auto", DTYPE, choices=DTYPES, panel=WEIGHTS)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=WEIGHTS)
