"""What a loaded model says of one picture: labels, and where things are named segments and instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maft.data.pixels import ImageLike
from maft.errors import UserError, first_line
from maft.predictor.loaded import LoadedModel
from maft.predictor.merging import merged_results
from maft.predictor.objects import shown_objects
from maft.structures import Prompts, Proposals, Vocabulary
from maft.test_time import AveragedInference


class ModelResults(LoadedModel):
    """A loaded model that says what is in one picture."""

    def result(
        self,
        image: ImageLike,
        pixels: NDArray[np.uint8],
        words: Vocabulary,
        things: list[bool] | None,
        prompts: Prompts | None = None,
        temperature: float | None = None,
    ) -> dict[str, Any]:
        """What the model says of one picture.

        Args:
            image: as the user gave it, whose path finds masks on the disk.
            pixels: (H, W, 3) uint8.
            things: of the words, for segments and instances as well; None: labels alone.
            prompts: in pixels of the picture; then "objects" has an instance for each.
            temperature: adds "sem_seg_tempered", see `maft.inference.semantic_result`.

        Raises:
            UserError: it does not fit into the memory.
        """
        record = self._record(image, pixels, prompts)
        try:
            with self._autocast():
                return self._computed(record, words, things, temperature)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error) and not isinstance(error, MemoryError):
                raise
            raise UserError(
                f"A picture of {pixels.shape[1]}x{pixels.shape[0]} pixels and {len(words)} words does not fit into the "
                f"memory ({first_line(error)[:120]}): make it smaller{'' if things is None else ', or name no things'}."
            ) from error

    @torch.no_grad()
    def scores(
        self, image: ImageLike, pixels: NDArray[np.uint8], words: Vocabulary, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(C, h, w) semantic scores of all words at a size of one's choice, without penalties, and (h, w) labels.

        Args:
            image, pixels: see `result`.
            size: (h, w), which all classes together must fit into the memory.
        """
        record = {**self._record(image, pixels), "height": size[0], "width": size[1]}
        with self._autocast():
            found = self._infer.predict([record], words, options={**self.model.inference_options, "labels_only": False})
        scores = found[0]["sem_seg"]
        if words.seen is not None and (penalty := self.model.inference_options["seen_penalty"]):
            scores = scores + torch.tensor(words.seen, device=scores.device)[:, None, None] * penalty
        return scores.cpu(), found[0]["sem_seg_labels"].cpu()

    def _computed(
        self, record: dict[str, Any], words: Vocabulary, things: list[bool] | None, temperature: float | None
    ) -> dict[str, Any]:
        model, with_temperature = self._infer, {**self.model.inference_options, "temperature": temperature}
        if isinstance(model, AveragedInference):
            return model.predict([record], words, with_temperature)[0]
        images = model.padded([record])
        proposals = model.propose(images, [record], words)
        classification = model.classify(images, proposals, words)

        def combined(proposals: Proposals, **options: bool) -> dict[str, Any]:
            changed = {**with_temperature, **options}
            return model.combine(images, proposals, classification, [record], words, things, changed)[0]

        # Labels are the same whether things are named or not.
        result = combined(proposals)
        if "prompts" in record:
            probabilities = model.class_probabilities(proposals, classification, words)[0]
            size = record["height"], record["width"]
            return {**result, "objects": shown_objects(proposals, probabilities, images, size, words)}
        if things is None:
            return result
        if self._of_objects:
            return result | combined(proposals, semantic=False, panoptic=True, instance=True)
        probabilities = model.class_probabilities(proposals, classification, words)[0]
        return result | merged_results(combined, proposals, probabilities, torch.tensor(things, device=model.device))
