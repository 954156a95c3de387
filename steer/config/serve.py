"""The command line of `steer serve`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from steer.serve.settings import ADDRESS, ServeSettings
from steer.settings import argument, option


@dataclass(frozen=True)
class ServeConfig(ServeSettings):
    """`steer serve`."""

    policy: str = argument("Folder of `steer train`, or any Hugging Face model (then without targets).")
    _: KW_ONLY
    host: str = option(
        "127.0.0.1", "Address to listen on; others than this machine's own need --api-key.", panel=ADDRESS
    )
    port: int = option(8000, "Port to listen on (0: any free one).", least=0, most=65535, panel=ADDRESS)
    api_key: str = option("", "Key that clients must send; better in the variable STEER_API_KEY.", panel=ADDRESS)
