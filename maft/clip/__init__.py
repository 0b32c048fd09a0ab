"""The CLIP room: towers, weights, vocabulary. The only package that knows open_clip."""

from maft.clip.encoder import CLIPEncoder
from maft.clip.loading import clip_from_config, load_clip
from maft.clip.vocabulary import VocabularyEncoder

__all__ = ["CLIPEncoder", "VocabularyEncoder", "clip_from_config", "load_clip"]
