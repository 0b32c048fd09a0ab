"""CLIP's parameter names: OpenAI's archives and open_clip's checkpoints spell them alike."""

from maft.checkpoint.official.released import key_map

# A whole CLIP, relative to `maft.clip.CLIPEncoder`.
RULES = key_map("clip").rules
