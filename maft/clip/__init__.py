"""The CLIP room: towers, weights, vocabulary. The only package that knows open_clip."""

from maft.clip.encoder import CLIPEncoder
from maft.clip.loading import load_clip
from maft.clip.vocabulary import VocabularyEncoder

__all__ = ["CLIPEncoder", "VocabularyEncoder", "load_clip"]
