"""What a report says of the selection: how finalists were trained, what they reached, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from psvit.report.formatting import DASH, count, joined
from psvit.search.proposal import REFERENCE
from psvit.search.report.report import Report
from psvit.search.selection.finalist import Finalist


def were_trained(finalists: Sequence[Finalist]) -> bool:
    """Whether any finalist was trained."""
    return any(finalist.looks for finalist in finalists)


def selection_text(report: Report) -> str:
    """How many networks were trained, and how they were compared."""
    finalists = report.finalists
    if len(finalists) < 2:
        return ""
    failures = joined([f"{each.name} ({each.failure})" for each in finalists if each.failure])
    if not were_trained(finalists):
        why = f"No finalist could be trained: {failures}" if failures else "Finalists were not trained"
        return f"{why}. They are ordered by the score above, which cannot tell near-ties apart."
    compared = Counter(look.epoch for finalist in finalists for look in finalist.looks)
    first, *others = sorted(compared)
    trained = [finalist.trial for finalist in finalists]
    if report.scored_by == "trained":
        # The scores of all candidates are the first comparison.
        trained, compared[first] = list(report.history), len(report.complete)
    by_hand = sum(trial.origin == REFERENCE for trial in trained)
    kinds = [count(len(trained) - by_hand, "candidate"), count(by_hand, "hand-made reference")]
    if report.scored_by == "trained" and report.control:
        kinds.append(f"{len(report.control)} at random for comparison")
        trained += report.control
    told = [f"{count(compared[epoch], 'network')} after {count(epoch, 'epoch')}" for epoch in (first, *others)]
    last = max(finalists[0].looks, key=lambda look: look.epoch)
    text = (
        f"{count(len(trained), 'network')} were trained on the training images: {joined(kinds)}. All have one schedule "
        f"of {count(last.epoch, 'epoch')}. On the way they were compared on the search images: {joined(told)}."
    )
    if others:
        text += (
            " From each comparison the best third went on, and in any case the best reference and the best of the "
            "others; at most four came to the last."
        )
    if len(last.accuracies) > 1:
        text += (
            f" There, each network was trained {len(last.accuracies)} times: given are the mean and the standard "
            "deviation."
        )
    return f"{text} Last are those whose training failed: {failures}." if failures else text


def look_cells(finalist: Finalist, epochs: Sequence[int]) -> list[str]:
    """What a finalist reached after these epochs, for a table."""
    reached = {look.epoch: look for look in finalist.looks}
    cells = []
    for epoch in epochs:
        look = reached.get(epoch)
        text = DASH if look is None else f"{look.mean:.2f}"
        if look and len(look.accuracies) > 1:
            text += f" ± {finalist.spread:.2f}"
        cells.append(text)
    if finalist.failure and epochs:
        # Where all failed at one comparison, none was looked at there, and it has no column.
        cells[min(len(finalist.looks), len(cells) - 1)] = "failed"
    return cells


def rung_epochs(finalists: Sequence[Finalist]) -> list[int]:
    """The epochs after which finalists were compared, ascending."""
    return sorted({look.epoch for finalist in finalists for look in finalist.looks})
