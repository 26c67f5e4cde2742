"""The policy of an earlier run, from its folder."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import jax
from pydantic import PlainValidator

from ..checkpoint import Checkpoint, Damaged, accuracy_of, by_name, folders, intact, refilled
from ..plugins import build
from ..records import Unreadable, read_config
from ..types import ConfigError, Model, Params, Tokenizer

POLICY = "policy"  # begins the names of its arrays in a checkpoint


class TrainedPolicy:
    """A network that was trained, and what it was trained with.

    Args:
      folder: of the run.
      step: learner steps that it had.
      config: of the run.
    """

    def __init__(self, folder: Path, step: int, config: dict[str, Any], model: Model, params: Params):
        self.folder, self.step, self.config, self.model, self.params = folder, step, config, model, params

    @classmethod
    def of(cls, folder: str | Path, *, best: bool = False) -> "TrainedPolicy":
        """The policy at the last checkpoint of a run which is as it was written.

        Nothing is unpickled; but the functions that the run's config names are called.

        Args:
          best: at the checkpoint of the best held-out accuracy instead.

        Raises:
          ConfigError: there is none, or it is of another model than the config's.
        """
        folder = Path(folder)
        found = checkpoint_of(folder, best)
        try:
            config = read_config(folder)
        except Unreadable as error:
            raise ConfigError("folder", folder, f"the folder of a run: {error}") from None
        tokenizer: Tokenizer = build(config["tokenizer"], "tokenizer", kind=Tokenizer)
        model: Model = build(config["model"], "model", tokenizer, kind=Model)
        like = jax.eval_shape(model.init, jax.random.key(0))
        places: dict[str, str] = found.about[POLICY]
        arrays = found.arrays(places.values())
        params = refilled(like, {name: arrays[place] for name, place in places.items()}, POLICY)
        return cls(folder, found.step, config, model, params)

    def expect_tokens(self, tokenizer: Mapping[str, Any], key: str) -> None:
        """Holds a tokenizer, a section of a config, to the one that it was trained with.

        Raises:
          ConfigError: it is another.
        """
        if self.config["tokenizer"] != tokenizer:
            raise ConfigError(key, self.folder, "a run with the same tokenizer as this one")

    def expect_shapes(self, model: Model, key: str) -> None:
        """Holds a model to the one that it is of.

        Raises:
          ConfigError: its parameters are others.
        """
        mine, theirs = (jax.eval_shape(one.init, jax.random.key(0)) for one in (model, self.model))
        if by_name(mine, POLICY) != by_name(theirs, POLICY):
            raise ConfigError(key, self.folder, "a run whose parameters have the shapes of this model's")


def checkpoint_of(folder: Path, best: bool) -> Checkpoint:
    """The last checkpoint of a run that is as it was written, or the best.

    Raises:
      ConfigError: there is none.
    """
    there, reason = folders(folder / "checkpoints")[::-1], "there is none"
    if best:
        there.sort(key=lambda path: -1.0 if (one := accuracy_of(path)) is None else one, reverse=True)
    for path in there:
        try:
            return intact(path)
        except Damaged as error:
            reason = f"{path.name} is damaged: {error}"
    raise ConfigError("folder", folder, f"the folder of a run with a checkpoint ({reason})")


TOKENIZER: ContextVar[Mapping[str, Any] | None] = ContextVar("TOKENIZER", default=None)


@contextlib.contextmanager
def only_of(tokenizer: Mapping[str, Any]) -> Iterator[None]:
    """A block in which an argument of the type `Trained` has to be a run with this tokenizer, a section of a config."""
    token = TOKENIZER.set(tokenizer)
    try:
        yield
    finally:
        TOKENIZER.reset(token)


def trained(folder: Any) -> TrainedPolicy:
    if isinstance(folder, TrainedPolicy):
        return folder
    if not isinstance(folder, str):
        raise ValueError("the folder of a run")
    policy, tokenizer = TrainedPolicy.of(folder), TOKENIZER.get()
    if tokenizer is not None:
        policy.expect_tokens(tokenizer, "folder")
    return policy


# A parameter of an algorithm's maker: in its YAML stands the folder of a run.
Trained = Annotated[TrainedPolicy, PlainValidator(trained)]
