"""Captions of a scene: five ways to say the same list."""

from maft.data.miniature.draws import Draws

TEMPLATES = (
    "a photo of {}.",
    "a picture of {}.",
    "this is {}.",
    "there is {} in the scene.",
    "an image with {}.",
)


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _listing(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def write_captions(things: list[str], stuff: list[str], draws: Draws) -> tuple[str, ...]:
    """One caption for each template.

    Every thing is always named, in an order of its own for each caption; the background is left out of one caption
    in five, as people do.

    Args:
        things: names of the objects, at least one.
        stuff: names of the background regions, at least one.
    """
    captions = []
    for template in TEMPLATES:
        order = draws.choose(len(things), len(things))
        listing = _listing([_article(things[position]) for position in order])
        if draws.integer(0, 4) > 0:
            ground = [f"the {stuff[position]}" for position in draws.choose(len(stuff), len(stuff))]
            listing = f"{listing} on {_listing(ground)}"
        captions.append(template.format(listing))
    return tuple(captions)
