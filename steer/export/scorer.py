"""Export a fitted scorer as a plain sequence classifier, whose outputs are its scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steer.errors import SteerError
from steer.export.policy import MARK, finished, replacing
from steer.labelling.scorer import load_scorer
from steer.run_folder import fingerprint, write_json


@dataclass(frozen=True)
class ExportedScorer:
    """Facts of an exported scorer; `remarks`: what its outputs lack of the scores of `steer label`."""

    attributes: tuple[str, ...]
    remarks: tuple[str, ...]


def is_scorer(folder: Path) -> bool:
    """Whether "steer fit" wrote the folder."""
    return (folder / "model.json").is_file() and (folder / "schema.json").is_file()


def export_scorer(source: Path, folder: Path, *, overwrite: bool = False) -> ExportedScorer:
    """Write a fitted `regression` as a folder for AutoModelForSequenceClassification; SteerError for other kinds."""
    inputs = {"source": fingerprint(source)}
    if facts := finished(folder, inputs, overwrite=overwrite):
        return ExportedScorer(tuple(facts["attributes"]), tuple(facts["remarks"]))
    if source.resolve().is_relative_to(folder.resolve()):
        raise SteerError(f"{folder}: holds the scorer itself. Choose another folder.")
    scorer = load_scorer(str(source))
    if not hasattr(scorer.model, "save_plain"):
        raise SteerError(f"{source}: is a scorer that no other program reads. Export one of --kind regression.")
    with replacing(folder) as temporary:
        with scorer.errors(str(source)):
            remarks = scorer.model.save_plain(temporary)
        facts = {"attributes": scorer.attributes, "remarks": remarks}
        write_json(temporary / MARK, {**inputs, "facts": facts})
    return ExportedScorer(scorer.attributes, tuple(remarks))
