"""Tokenizers. Id 0 pads and is never chosen by a policy; id 1 ends a completion."""

import numpy as np

from ..contract.sources import Source, expect, expect_of
from ..types import ConfigError, Tokenizer

PAD, END = 0, 1


def check_tokenizer(tokenizer: Tokenizer, alphabet: frozenset[str]) -> None:
    """Holds a tokenizer to its ids, and to at most one token a character of a task's text.

    Raises:
      ConfigError: a character has no token.
      PluginError: ids are out of range, a policy could not end a completion, or a text is another once decoded.
    """
    functions = {"encode": type(tokenizer).encode, "decode": type(tokenizer).decode}
    with Source(type(tokenizer), functions).blamed("encode"):
        emits, text = np.asarray(tokenizer.emits), "".join(sorted(alphabet))
        fine = emits.shape == (tokenizer.vocabulary,) and emits.dtype == bool
        expect_of(emits, fine, "maker", f"emits bool[{tokenizer.vocabulary}], as many as its vocabulary")
        expect(emits[END], "maker", f"emits[{END}] to be True: id {END} ends a completion", "False")
        tokens = tokenizer.encode(text)
        expect(len(tokens) <= len(text), "encode", "at most one token a character", f"{len(tokens)} for {len(text)}")
        fine = all(END < token < tokenizer.vocabulary for token in tokens)
        wanted = f"ids from {END + 1} to {tokenizer.vocabulary - 1}"
        expect(fine, "encode", wanted, f"{min(tokens)} to {max(tokens)}")
        back = tokenizer.decode(tokens)
        expect(back == text, "decode", f"{text!r:.80} again", f"{back!r:.80}")


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
        self._letters = ["", "", *alphabet]

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as missing:
            raise ConfigError(
                "tokenizer.alphabet", repr(self.alphabet), f"has to hold {missing.args[0]!r}, in the text {text!r}"
            ) from None

    def decode(self, tokens) -> str:
        return "".join([self._letters[token] for token in tokens])
