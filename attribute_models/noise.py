"""Third-party noise, kept quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Silence loading bars and warnings of libraries that a user can do nothing about."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import transformers
    from transformers import modeling_gguf_pytorch_utils as gguf

    gguf.tqdm = _unseen  # a bar of its own, in a log a line for every weight
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unseen(items: Any, **_: Any) -> Any:
    """Iterate over items without a bar."""
    return items
