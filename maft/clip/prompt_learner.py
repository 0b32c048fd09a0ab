"""Learned prompts, vectors around a class name in place of a sentence: ZSSeg (Xu et al., ECCV 2022) and FreeSeg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip.encoder import CLIPEncoder
from maft.errors import UserError

_NODE = "MODEL.VOCABULARY.PROMPTS"
# The class names between the two parts of a prompt, and a text's end.
_FULL_STOP = "."


class PromptLearner(nn.Module):
    """Vectors of the text tower's width that stand around every class name, the same for all names.

    What the text transformer reads of a name, with [...] learned: the words of the task and [task] where there are
    tasks (FreeSeg), the start token, [prefix], the name's tokens, [suffix], a full stop, the end token. The embedding
    is read at the end token and brought to unit length; there are no templates and no mean.

    Args:
        clip: whose text tower reads the prompts.
        prefix, suffix: number of vectors before and after the name.
        task: number of vectors after the words of the task.
        tasks: in words, such as "semantic segmentation."; the first one is that of evaluation.
        frozen: whether the vectors have no gradient.
        keep_first_task: official behaviour of FreeSeg with frozen prompts: texts are kept under the class name alone,
            so that every task gets those of the task that was asked for first.

    Attributes:
        prefix, suffix, task: (n, W) each, None where n is 0.

    Raises:
        UserError: there is no vector, there are task vectors without a task, or the text tower has no causal attention.
    """

    prefix: nn.Parameter | None
    suffix: nn.Parameter | None
    task: nn.Parameter | None

    def __init__(
        self,
        clip: CLIPEncoder,
        *,
        prefix: int = 16,
        suffix: int = 0,
        task: int = 0,
        tasks: Sequence[str] = (),
        frozen: bool = False,
        keep_first_task: bool = False,
    ) -> None:
        super().__init__()
        clip.require_causal_text("Learning prompts")
        if not prefix + suffix:
            raise UserError(f"{_NODE} has PREFIX 0 and SUFFIX 0: give one of them the number of vectors to learn.")
        if task and not tasks:
            raise UserError(f"{_NODE}.TASK is {task}, but {_NODE}.TASKS is empty: name the tasks or set TASK to 0.")
        self.tasks, self.keep_first_task = tuple(tasks), keep_first_task
        width = clip.text_width
        for name, count in (("prefix", prefix), ("suffix", suffix), ("task", task)):
            vectors = nn.Parameter(torch.empty(count, width).normal_(std=0.02), not frozen) if count else None
            self.register_parameter(name, vectors)
        if self.task is not None:
            with torch.no_grad():
                nn.init.kaiming_normal_(self.task, a=2)
        self._first_task: str | None = None

    @property
    def trains(self) -> bool:
        """Whether the vectors have gradients at the moment."""
        return torch.is_grad_enabled() and any(vectors.requires_grad for vectors in self.parameters())

    def version(self) -> tuple[Any, ...]:
        """Changes whenever a vector is replaced, moved or written in place."""
        return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.parameters())

    def choose_task(self, wanted: str | None) -> str:
        """The task of a call: the one that is asked for, else the first; in training mode one drawn at random."""
        if wanted is None:
            drawn = int(torch.randint(len(self.tasks), ())) if self.training and len(self.tasks) > 1 else 0
            wanted = self.tasks[drawn] if self.tasks else ""
        if self.keep_first_task and not any(vectors.requires_grad for vectors in self.parameters()):
            self._first_task = wanted = wanted if self._first_task is None else self._first_task
        return wanted

    def forward(self, names: Sequence[str], clip: CLIPEncoder, task: str = "") -> Tensor:
        """Embeddings of class names: (n, D) float32 of unit length, with gradients to the vectors.

        Raises:
            UserError: a name does not fit between the vectors into the tower's context.
        """
        return F.normalize(clip.encode_embedded_text(*self.embedded(names, clip, task)).float(), dim=-1)

    def embedded(self, names: Sequence[str], clip: CLIPEncoder, task: str = "") -> tuple[Tensor, Tensor]:
        """What the text transformer reads before the position embedding.

        Returns:
            (n, L, W), with L the length of the longest row, and the position of each row's end token (n,) int64.
        """
        tokens = clip.tokenize([_FULL_STOP, task, *names]).to(clip.device)
        ends = clip.text_ends(tokens)
        embedding = clip.token_embedding
        stop, words_of_task = (embedding(row[1:end]) for row, end in zip(tokens[:2], ends[:2].tolist()))
        start, end = embedding(tokens[0, :1]), embedding(tokens[0, ends[0], None])
        width = start.shape[1]
        task_vectors, prefix, suffix = (
            start.new_zeros(0, width) if vectors is None else vectors
            for vectors in (self.task, self.prefix, self.suffix)
        )
        if not task:
            task_vectors = task_vectors[:0]
        head = torch.cat([words_of_task, task_vectors, start, prefix])
        tail = torch.cat([suffix, stop, end])
        lengths = ends[2:] - 1
        longest = int(lengths.max())
        length = len(head) + longest + len(tail)
        if length > tokens.shape[1]:
            name = names[int(lengths.argmax())]
            raise UserError(
                f"The prompt of {name!r} has {length} tokens, {len(head)} before the name and {len(tail)} after it, "
                f"and the text tower of CLIP {clip.name} reads {tokens.shape[1]}: shorten the name, or the prompts in "
                f"{_NODE}."
            )
        words = embedding(tokens[2:, 1 : 1 + longest])
        # Rows of one table: the head, the tail, then every name's own. What stands behind the end token is seen by
        # nothing before it, so short rows repeat the end.
        place = torch.arange(length, device=tokens.device)
        after = place - len(head)
        of_tail = len(head) + (after - lengths[:, None]).clamp(0, len(tail) - 1)
        of_name = len(head) + len(tail) + longest * torch.arange(len(names), device=tokens.device)[:, None] + after
        index = torch.where(after < 0, place, torch.where(after < lengths[:, None], of_name, of_tail))
        return torch.cat([head, tail, words.flatten(0, 1)])[index], len(head) + lengths + len(tail) - 1
