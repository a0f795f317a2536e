"""Data sets: found out by their bytes, decoded once, kept in memory as bytes.

`load` gives one to train on; `describe` says what would be made of a file, without torch.
"""

from trainer.data.dataset import SPLITS, DataSet, Split
from trainer.data.images import decode, fit
from trainer.data.reading import Description, describe, hash_source, load

__all__ = [
    "SPLITS",
    "DataSet",
    "Description",
    "Split",
    "decode",
    "describe",
    "fit",
    "hash_source",
    "load",
]
