"""Texts to rows of tokens: shuffled, tokenized, laid end to end and cut, so that a row is an example of fixed size."""

from streamtrain.packing.tokens.token_rows import in_token_rows
from streamtrain.packing.tokens.tokenized_texts import texts_to_tokenize

__all__ = ["in_token_rows", "texts_to_tokenize"]
