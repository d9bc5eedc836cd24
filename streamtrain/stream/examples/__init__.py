"""Examples one by one: members decoded, the user's `map` and `augment` called, and a batch made of what they give.

And what changes such a batch in training.
"""

from streamtrain.stream.examples.assembling import Assembler, Decoding, Map, Member, Row

__all__ = ["Assembler", "Decoding", "Map", "Member", "Row"]
