"""What our model files call their parts, for the rooms that write them and read them.

Nothing here reads a file.
"""

METADATA_KEY = "prunelab"  # the only one: safetensors writes several in no fixed order
MASK_PREFIX = "mask/"  # of a mask's name, before that of its weight
