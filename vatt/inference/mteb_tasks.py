"""Tasks of MTEB made of clips: what `vatt.inference.mteb.tasks_of` gives. Needs the extra ``mteb``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vatt.data.clips import Clip


def _metadata(name: str, kind: str, category: str, modalities: list[str], score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        description="Clips of a manifest on this machine.",
        dataset={"path": "local/manifest", "revision": "none"},
        type=kind,
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


def _column(clips: Sequence[Clip], modality: str) -> Any:
    """A data set of one column, whose media stay files."""
    import datasets

    if modality == "text":
        return datasets.Dataset.from_dict({"text": [_caption(clip) for clip in clips]})
    paths = [{"path": str(clip.video), "bytes": None} for clip in clips]
    stored = {"path": datasets.Value("string"), "bytes": datasets.Value("binary")}  # datasets.Audio wants torchcodec
    return datasets.Dataset.from_dict({modality: paths}, features=datasets.Features({modality: stored}))


def _caption(clip: Clip) -> str:
    return clip.captions[0].text if clip.captions else ""


def retrieval(name: str, query: str, document: str, clips: Sequence[Clip]) -> Any:
    """Each clip's ``query`` modality finds its ``document`` modality among those of all. Equal captions are one query,
    or one document."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    letters = f"{query[0]}2{document[0]}"
    queries, of_query = _distinct(clips, query)
    documents, of_document = _distinct(clips, document)

    class Task(AbsTaskRetrieval):
        data_loaded: bool
        metadata = _metadata(name, "Any2AnyRetrieval", letters, [query, document], "ndcg_at_10")

        def load_data(self, num_proc: int | None = None, **others: Any) -> None:
            if self.data_loaded:
                return
            right: dict[str, dict[str, int]] = {}
            for q, d in zip(of_query, of_document, strict=True):
                right.setdefault(f"q{q}", {})[f"d{d}"] = 1
            self.dataset = {
                "default": {
                    "test": {
                        "queries": _column(queries, query).add_column("id", [f"q{n}" for n in range(len(queries))]),
                        "corpus": _column(documents, document).add_column(
                            "id", [f"d{n}" for n in range(len(documents))]
                        ),
                        "relevant_docs": right,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return Task()


def _distinct(clips: Sequence[Clip], modality: str) -> tuple[list[Clip], list[int]]:
    """The clips that differ in a modality, and of each clip the place of the one that it is like."""
    if modality != "text":
        return list(clips), list(range(len(clips)))
    places: dict[str, int] = {}
    found: list[Clip] = []
    numbers: list[int] = []
    for clip in clips:
        if _caption(clip) not in places:
            places[_caption(clip)] = len(found)
            found.append(clip)
        numbers.append(places[_caption(clip)])
    return found, numbers


def classification(name: str, modality: str, train: Sequence[Clip], test: Sequence[Clip]) -> Any:
    """Classes by a few labelled clips each and a logistic regression on features, as ``mteb`` does it."""
    from mteb.abstasks.classification import AbsTaskClassification

    labels = sorted({str(clip.label) for clip in [*train, *test]})

    class Task(AbsTaskClassification):
        data_loaded: bool
        metadata = _metadata(
            name,
            "VideoClassification" if modality == "video" else "AudioClassification",
            f"{modality[0]}2c",
            [modality],
            "accuracy",
        )
        input_column_name = modality

        def load_data(self, num_proc: int | None = None, **others: Any) -> None:
            if self.data_loaded:
                return
            import datasets

            parts = {"train": train, "test": test}
            self.dataset = datasets.DatasetDict(
                {
                    split: _column(clips, modality).add_column("label", [labels.index(str(c.label)) for c in clips])
                    for split, clips in parts.items()
                }
            )
            self.data_loaded = True

    return Task()
