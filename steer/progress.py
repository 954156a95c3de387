"""Progress of long steps with the time left, notes, and `quiet`: those of the scorers."""

from attribute_models.noise import quiet
from attribute_models.progress import PREFIX, Step, duration, note, note_once, notes_kept, progress, write

__all__ = ["PREFIX", "Step", "duration", "note", "note_once", "notes_kept", "progress", "quiet", "write"]
