"""What an evaluator counted of each image by itself, kept as the few numbers that are not zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor

# So many images' rows stay on the device before they move to the host as one.
_BLOCK = 64


class ImageRows:
    """Rows of a table with the columns ``image`` (place of the image) and others, in the order of the images seen.

    Rows stay on the device where they were made until some tens of images have come together.

    Args:
        columns: type of each further column.
        images: file names of all images of the dataset, in its order. None: nothing is kept.
    """

    def __init__(self, columns: Mapping[str, torch.dtype], images: Sequence[str] = ()) -> None:
        self.columns = {"image": torch.int32, **columns}
        self.images = images
        self._place = {file: place for place, file in enumerate(images)}
        self.reset()

    def reset(self) -> None:
        self._kept = [{name: torch.empty(0, dtype=dtype) for name, dtype in self.columns.items()}]
        self._recent: list[dict[str, Tensor]] = []

    def add(self, file: str, **values: Tensor) -> None:
        """Keeps the rows of one image.

        Args:
            file: its name, one of ``images``.
            values: (n, ...) of each column but ``image``, on any device.
        """
        if not self._place:
            return
        first = next(iter(values.values()))
        image = torch.full(first.shape[:1], self._place[file], dtype=torch.int32, device=first.device)
        self._recent.append({"image": image, **{name: value.to(self.columns[name]) for name, value in values.items()}})
        if len(self._recent) >= _BLOCK:
            self._settle()

    def _settle(self) -> None:
        if self._recent:
            self._kept.append(_joined(self._recent))
            self._recent = []

    def state(self) -> dict[str, Tensor]:
        """The rows of this process so far, by column, on the CPU."""
        self._settle()
        self._kept = [_joined(self._kept)]
        return dict(self._kept[0])

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self._kept, self._recent = [{name: state[name] for name in self.columns}], []

    def gathered(self) -> dict[str, Tensor]:
        """The rows of all processes in the order of the images; has to be called by all, and is empty but in the main.

        The rows of one image stay in their order.
        """
        parts = comm.gather(self.state())
        if not parts:
            return {}
        rows = _joined(parts)
        order = rows["image"].argsort(stable=True)
        return {name: values[order] for name, values in rows.items()}


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
