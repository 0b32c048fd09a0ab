"""Captions of a scene: five ways to say the same list."""

from maft.miniature.draws import Draws

TEMPLATES = (
    "a photo of {}.",
    "a picture of {}.",
    "this is a photo of {}.",
    "there is {} in the scene.",
    "an image with {}.",
)


def _noun_phrase(name: str, size: str, draws: Draws) -> str:
    phrase = f"{size} {name}" if draws.integer(0, 3) == 0 else name
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _listing(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def write_captions(things: list[tuple[str, str]], stuff: list[str], draws: Draws) -> tuple[str, ...]:
    """One caption for each template.

    Every thing is always named, in an order of its own for each caption, one time in four with its size; the
    background is left out of one caption in five, as people do.

    Args:
        things: name and size ("small", "medium" or "large") of each object, at least one.
        stuff: names of the background regions, at least one.
    """
    captions = []
    for template in TEMPLATES:
        order = draws.choose(len(things), len(things))
        listing = _listing([_noun_phrase(*things[position], draws) for position in order])
        if draws.integer(0, 4) > 0:
            ground = [f"the {stuff[position]}" for position in draws.choose(len(stuff), len(stuff))]
            listing = f"{listing} on {_listing(ground)}"
        captions.append(template.format(listing))
    return tuple(captions)
