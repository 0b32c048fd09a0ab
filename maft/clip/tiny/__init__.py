"""The tiny CLIPs of the miniature world, shipped with the package.

``tiny_vit`` and ``tiny_convnext`` are folders in open_clip's ``local-dir:`` layout (``open_clip_config.json``,
``model.safetensors`` in float16) with a ``tokenizer.json`` for :class:`maft.clip.word_tokenizer.WordTokenizer`.
Importing this package registers the ConvNeXt's trunk with timm, which open_clip needs to build ``tiny_convnext``.
"""

from pathlib import Path

from maft.clip.tiny import convnext_miniature as _registration  # noqa: F401 (imported for timm's registry)

TINY_CLIPS = ("tiny_vit", "tiny_convnext")


def tiny_clip_folder(name: str) -> Path:
    """Folder of a shipped tiny CLIP.

    Raises:
        KeyError: ``name`` is not one of ``TINY_CLIPS``.
    """
    if name not in TINY_CLIPS:
        raise KeyError(name)
    return Path(__file__).parent / name
