"""Find prompts that are the same but for case, marks and spaces, or share most of their word triples.

MinHash (Broder 1997) finds the candidates, the exact Jaccard similarity of the triples decides: nothing is a duplicate
by chance, and at a similarity of .7 less than one in a thousand is missed ((1 - .7^4)^32 = .0002).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib

import numpy as np
from numpy.typing import NDArray

from data_recipes.marks import Row

BANDS, DEEP = 32, 4  # signatures of 128 numbers, compared in 32 bands of 4
WORD = re.compile(r"\w+")


def normal(row: Row) -> str:
    """Return the words of all turns of the prompt in lower case; a prompt of marks alone keeps them."""
    text = unicodedata.normalize("NFKC", "\n".join(turn["content"] for turn in row["prompt"])).casefold()
    return " ".join(WORD.findall(text)) or " ".join(text.split())


def key(text: str) -> bytes:
    """Return 8 bytes that tell normalised prompts apart."""
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()


class Near:
    """Index of texts that finds those with a similarity of at least `threshold`, whatever their order."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.texts: list[str] = []
        self.triples: list[frozenset[int]] = []
        self.bands: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
        self.odd = np.random.default_rng(0).integers(0, 2**63, (BANDS * DEEP, 2), dtype=np.uint64) | np.uint64(1)

    def add(self, text: str) -> None:
        """Add a text to the index."""
        triples = self._triples(text)
        for band, part in zip(self.bands, self._parts(triples)):
            band.setdefault(part, []).append(len(self.texts))
        self.texts.append(text)
        self.triples.append(frozenset(triples.tolist()))

    def like(self, text: str) -> tuple[float, str] | None:
        """Return (similarity, text) of the most similar text; of equally similar ones the first in the alphabet."""
        triples = self._triples(text)
        candidates = {i for band, part in zip(self.bands, self._parts(triples)) for i in band.get(part, ())}
        own = frozenset(triples.tolist())
        alike = [(jaccard(own, self.triples[i]), self.texts[i]) for i in candidates]
        alike = [(share, other) for share, other in alike if share >= self.threshold]
        return min(alike, key=lambda a: (-a[0], a[1])) if alike else None

    def _triples(self, text: str) -> NDArray[np.uint64]:
        """Return the distinct hashes [n] of three words in a row, or of the whole text if it has fewer."""
        words = np.array([zlib.crc32(word.encode("utf-8", "backslashreplace")) for word in text.split()], np.uint64)
        if len(words) < 3:
            return np.array([int.from_bytes(key(text))], np.uint64)
        a, b, c = (np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
        mixed = words[:-2] * a ^ (words[1:-1] * b + (words[2:] * c << np.uint64(7)))
        mixed ^= mixed >> np.uint64(31)
        return np.unique(mixed * a)

    def _parts(self, triples: NDArray[np.uint64]) -> list[bytes]:
        """Return the bands of a MinHash signature: the minimum of each of 128 hashes (multiply and shift)."""
        hashed = (triples[:, None] * self.odd[:, 0] + self.odd[:, 1]) >> np.uint64(32)  # [n, 128]
        return [part.tobytes() for part in hashed.min(0).reshape(BANDS, DEEP)]


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Return the share of the elements of either set that both have."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
