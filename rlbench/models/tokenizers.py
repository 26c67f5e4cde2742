"""Tokenizers. Id 0 pads and is never chosen by a policy; id 1 ends a reply."""

import numpy as np

from ..types import ConfigError

PAD, END = 0, 1


class Characters:
    """One token a character.

    Args:
      alphabet: the characters, each once; the default of the shipped config is printable ASCII
        and the newline.
    """

    def __init__(self, *, alphabet: str):
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ConfigError("alphabet", repr(alphabet), "at least one character, each once")
        self.alphabet = alphabet
        self.vocabulary = 2 + len(alphabet)
        self.emits = np.arange(self.vocabulary) != PAD
        self._ids = {character: 2 + i for i, character in enumerate(alphabet)}

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as missing:
            raise ConfigError(
                "tokenizer.alphabet", repr(self.alphabet), f"has to hold {missing.args[0]!r}, in the text {text!r}"
            ) from None

    def decode(self, tokens) -> str:
        return "".join(self.alphabet[int(token) - 2] for token in tokens if token >= 2)
