"""Hugging Face directory + LoLCATs adapters -> one directory that LoLA stream memory serves.

Needs Python 3.10 and numpy, and neither torch nor safetensors: the few formats involved are read
here, with every length and offset checked, because checkpoints come from strangers.
"""

VERSION = 1  # of the conversion; raised when equal inputs give other output


class ConvertError(Exception):
    """Something about the inputs or the machine that the user can act on; ends the conversion."""
