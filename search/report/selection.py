"""What a report says of the selection: how finalists were trained, what they reached, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from psvit.report.formatting import DASH, count, joined
from psvit.search.selection.finalist import Finalist


def were_trained(finalists: Sequence[Finalist]) -> bool:
    """Whether any finalist was trained."""
    return any(finalist.looks for finalist in finalists)


def selection_text(finalists: Sequence[Finalist]) -> str:
    """How finalists were compared."""
    if len(finalists) < 2:
        return ""
    failures = joined([f"{each.name} ({each.failure})" for each in finalists if each.failure])
    if not were_trained(finalists):
        why = f"No finalist could be trained: {failures}" if failures else "Finalists were not trained"
        return f"{why}. They are ordered by the score above, which cannot tell near-ties apart."
    looks = {look.epoch: len(look.accuracies) for finalist in finalists for look in finalist.looks}
    last = max(looks)
    references = sum(finalist.is_reference for finalist in finalists)
    of_them = f"{references} of them hand-made references" if references else "none of them a hand-made reference"
    text = (
        f"{count(len(finalists), 'network')} were trained on the training images, all by one schedule of "
        f"{count(last, 'epoch')}, {of_them}. They were compared on the search images "
        f"after {joined([str(epoch) for epoch in sorted(looks)])} epochs. After each of these, a third went on, with "
        f"the best reference and the best of the others in any case. The last comparison is of "
        f"{count(looks[last], 'training')} each: given are the mean and the standard deviation."
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
        cells[len(finalist.looks)] = "failed"
    return cells


def rung_epochs(finalists: Sequence[Finalist]) -> list[int]:
    """The epochs after which finalists were compared, ascending."""
    return sorted({look.epoch for finalist in finalists for look in finalist.looks})
