"""Find pictures, sound and files in a record: among the parts of a turn, beside its text, and in columns.

Only text can be used, so what was asked there is not all in the row. Parts go by the words in their type and keys,
turns and columns by the words of a name and by the value under it: `image_count` and an empty list are no picture.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from data_recipes.metadata import words
from data_recipes.streams import DataError

PICTURE, VIDEO, SOUND, FILE, EITHER = "a picture", "a video", "sound", "a file", "a picture or another file"
MEDIA = {  # what a part is that cannot be read, by words in its type or in the names of its keys
    "image": PICTURE,
    "picture": PICTURE,
    "photo": PICTURE,
    "video": VIDEO,
    "audio": SOUND,
    "inlinedata": EITHER,
    "filedata": EITHER,
    "blob": EITHER,
    "uri": EITHER,
    "document": "a document",
    "file": FILE,
    "attachment": FILE,
    "upload": FILE,
    "media": EITHER,
}
NAMED = {  # the same by a word in the name of a column or of a key of a turn; a document there is a text
    **{name + end: MEDIA[name] for name in words("image picture photo video audio file media") for end in ("", "s")},
    **dict.fromkeys(words("img imgs pic pics jpg jpeg png webp"), PICTURE),
    **dict.fromkeys(words("wav mp3 flac"), SOUND),
    "mp4": VIDEO,
}
ATTACHED = words("attachment attachments upload uploads")  # files, whatever they are called
WHERE = words("path paths url urls uri uris base64 b64 bytes file files filename filenames")  # a text there is a place
BARE = words("decoded raw input user experimental id ids data")  # what else may be in a name that names nothing else
OTHERS = words("profile avatar thumbnail icon logo")  # pictures of somebody, which nobody was asked about
WORD = re.compile(  # image_path, imagePath and imagepath are two words
    r"mp[34]|b(?:ase)?64|(?:image|img|picture|photo|video|audio|file)(?=(?:url|path|uri|base64)s?(?![a-z]))"
    r"|[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
)
PLACE = re.compile(  # or the first letters of a picture as base64
    r"^(data:|https?:|s3:|gs:|hf:|file:|iVBORw0KGgo|/9j/|R0lGOD|UklGR)|"
    r"\.(jpe?g|png|gif|webp|bmp|tiff?|svg|mp4|webm|mov|avi|wav|mp3|flac|ogg|m4a)(\?|$)",
    re.IGNORECASE,
)
HELD = words("bytes path url src data base64 b64_json uri image_url array")  # keys of an object that is one
HINTS = words("image Image IMAGE img video VIDEO audio AUDIO vision")  # no other text can hold what follows
STANDS = re.compile(  # for a picture or sound in a text: <image>, <|image_1|>, <start_of_image>, <|vision_start|>
    r"<(\|?)(?:start_of_|begin_of_)?(image|img|video|audio|vision)((?:[_-]?(?:\d+|pad|start|bos|token|soft|here"
    r"|placeholder))*)\|?>",
    re.IGNORECASE,
)


class UnreadError(DataError):
    """A picture, sound or a file: the record that holds it cannot be used, and is left out and counted."""


def of_part(part: Any) -> str:
    """Return what a part holds that is no text, if it is known."""
    named = [str(part.get("type") or ""), *part] if isinstance(part, dict) else []
    plain = ["".join(filter(str.isalnum, str(name).lower())) for name in named]
    return next((MEDIA[key] for word in plain for key in MEDIA if key in word), "")


def beside(turn: dict[str, Any]) -> str:
    """Return what a turn holds beside its text that cannot be read, if anything: `images` of Ollama and the like."""
    return next((medium for name, medium, bare, _ in _named(tuple(turn)) if _is_medium(turn[name], medium, bare)), "")


def pictured(record: dict[str, Any]) -> None:
    """Raise UnreadError if a column beside a record's texts holds a picture, sound or a file, or where they are."""
    for name, medium, _, located in _named(tuple(record)):
        if _is_medium(record[name], medium, located):
            remedy = "--map prompt=COLUMN --map response=COLUMN reads the texts alone"
            raise UnreadError(f"column '{name}' holds {medium}, and only text can be used ({remedy})")


@lru_cache(maxsize=1000)
def _named(names: tuple[Any, ...]) -> tuple[tuple[str, str, bool, bool], ...]:
    """Return the names that may be of a medium, each with what it is.

    Also whether any value under it is one: in a turn, where the name says nothing else, and in a column, where it says
    that it holds a place or an attachment.
    """
    found = []
    for name in names:
        parts = [part.lower() for part in WORD.findall(name)] if isinstance(name, str) else []
        attached = any(part in ATTACHED for part in parts)
        medium = FILE if attached else next((NAMED[part] for part in parts if part in NAMED), "")
        alone = all(part in NAMED or part in (*ATTACHED, *WHERE, *BARE) for part in parts)
        if not medium or {*parts} & {*OTHERS} or (medium == EITHER and not alone):  # social_media names no picture
            continue
        place = medium != FILE and {*parts} & {*WHERE} and (parts[-1] in WHERE or parts[-1] in NAMED)
        found.append((name, medium, alone and medium != EITHER, (attached and alone) or bool(place)))
    return tuple(found)


def _is_medium(value: Any, medium: str, sure: bool = False) -> bool:
    """Whether a value is a medium, or says where one is; `sure`: it is unless it is nothing, a number or a flag.

    A file may be code or what a text was taken from: it is one by its bytes or the ending of its name.
    """
    if isinstance(value, bytes):
        return True
    if sure:
        return isinstance(value, str | list | dict) and _filled(value)
    if isinstance(value, str):
        place = PLACE.search(value)
        return bool(place and (medium != FILE or place[2] or place[1] == "data:"))
    if isinstance(value, list):
        return any(_is_medium(each, medium) for each in value)
    if not isinstance(value, dict):
        return False
    held = [value[key] for key in HELD if _filled(value.get(key))]
    return any(_is_medium(each, medium) for each in held) if medium == FILE else bool(held)


def _filled(value: Any) -> bool:
    """Whether a value is something; a list or an object of nothing is not."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "none", "null", "nan", "n/a")
    if isinstance(value, list | dict):
        return any(map(_filled, value.values() if isinstance(value, dict) else value))
    return value is not None and value is not False


def stands_for(text: str) -> str:
    """Return what stands in a text for a picture or sound that was there, "" if nothing does.

    >>> stands_for("<image>\\nWhat is it?"), stands_for("<|image_1|> and?"), stands_for("<video>x</video> plays x")
    ('<image>', '<|image_1|>', '')
    """
    found = STANDS.search(text) if "<" in text and any(map(text.__contains__, HINTS)) else None
    tag = found and not found[1] and not found[3] and f"</{found[2].lower()}>" in text.lower()  # of HTML
    return found[0] if found and not tag else ""
