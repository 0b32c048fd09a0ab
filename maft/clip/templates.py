"""Prompt templates: the sets the papers use, and lists of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from maft.errors import UserError

TEMPLATE_SETS = ("single", "vild", "imagenet")


def prompt_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of a named set ("single" 1, "vild" 14, "imagenet" 80), or a given list, checked.

    Raises:
        UserError: the set is unknown, the list is empty, or a template lacks ``{}``.
    """
    if isinstance(templates, str):
        if templates in TEMPLATE_SETS:
            return _read(templates)
        if "{}" not in templates:
            raise UserError(
                f"Unknown prompt template set {templates!r} in MODEL.VOCABULARY.TEMPLATES; the known ones are: "
                f"{', '.join(TEMPLATE_SETS)}; a template of your own needs {{}} where the class name goes."
            )
        templates = [templates]
    if not templates:
        raise UserError("MODEL.VOCABULARY.TEMPLATES is an empty list: give at least one template with {} in it.")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"Prompt template {template!r} needs exactly one {{}} where the class name goes.")
    return tuple(templates)


@cache
def _read(name: str) -> tuple[str, ...]:
    text = (files("maft.clip") / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
