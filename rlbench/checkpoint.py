"""Checkpoints: folders that are complete or absent, and known to be as they were written.

    checkpoints/step-000150/
      arrays/          every array, by the name of its place, as orbax writes them
      rest.pickle      everything else: what is pickled refers to those arrays
      checkpoint.json  step, accuracy, versions, the config, and the SHA-256 of every file

A draft is written beside the run and moved into its place at the end. docs/reliability.md says what is promised.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO

import jax
import numpy as np

from .types import ConfigError, NotWritten

FOLDER, ARRAYS, REST, ABOUT = "checkpoints", "arrays", "rest.pickle", "checkpoint.json"
ATTEMPTS, PAUSE = 50, 0.1  # seconds between attempts at removing a draft
SMALL = 1 << 16  # bytes of an array of the host that is pickled with the rest
STEP = re.compile(r"step-(\d+)")
log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A checkpoint is not as it was written; says why, in one line."""


class Stateful:
    """An object that can go on from the values of some of its attributes."""

    STATE: ClassVar[tuple[str, ...]]

    def state(self) -> dict[str, Any]:
        """Their values."""
        return {name: getattr(self, name) for name in self.STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes values of an earlier time."""
        for name in self.STATE:
            setattr(self, name, state[name])


class Packed(NamedTuple):
    """Objects as they were at one moment, on the host."""

    pickled: bytes
    arrays: dict[str, np.ndarray]  # that the pickled part refers to

    @classmethod
    def of(cls, content: Any, prefix: str) -> "Packed":
        """Copies objects. Arrays of devices become arrays of the host.

        Args:
          prefix: of the arrays' names.
        """
        stream = io.BytesIO()
        packer = Packer(stream, prefix)
        packer.dump(content)
        return cls(stream.getvalue(), packer.arrays)

    def open(self) -> Any:
        """The objects again."""
        return Opener(io.BytesIO(self.pickled), self.arrays).load()


class Packer(pickle.Pickler):
    """Pickles objects, all but their arrays."""

    def __init__(self, stream: io.BytesIO, prefix: str):
        super().__init__(stream, protocol=5)
        self.prefix, self.arrays = prefix, dict[str, np.ndarray]()

    def persistent_id(self, one: Any) -> str | None:
        large = isinstance(one, jax.Array) or (type(one) is np.ndarray and one.nbytes > SMALL)
        if not large or one.dtype.hasobject:
            return None
        name = f"{self.prefix}/{len(self.arrays):04}"
        self.arrays[name] = np.array(one)
        return name


class Opener(pickle.Unpickler):
    """Undoes what a Packer did."""

    def __init__(self, stream: io.BytesIO, arrays: Mapping[str, np.ndarray]):
        super().__init__(stream)
        self.arrays = arrays

    def persistent_load(self, name: str) -> np.ndarray:
        return self.arrays[name]


def by_name(tree: Any, prefix: str) -> dict[str, Any]:
    """Leaves of a tree by the names of their places; those of size zero, which Orbax does not take, are left out."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if leaf.size]
    return {f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf for path, leaf in leaves}


def refilled(like: Any, arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """A tree of arrays, from their names.

    Args:
      like: its structure, shapes and dtypes.

    Raises:
      ConfigError: the arrays are those of another model, algorithm or optimizer.
    """

    def leaf(path: Any, shape: Any) -> np.ndarray:
        name = f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        there = arrays.get(name) if math.prod(shape.shape) else np.zeros(shape.shape, shape.dtype)
        if there is None or (there.shape, there.dtype) != (shape.shape, shape.dtype):
            have = "nothing" if there is None else f"{there.dtype}{list(there.shape)}"
            raise ConfigError("checkpoint", name, f"{shape.dtype}{list(shape.shape)}, but the checkpoint has {have}")
        return there

    return jax.tree_util.tree_map_with_path(leaf, like)


class Checkpoint(NamedTuple):
    """A checkpoint that was read back."""

    folder: Path
    about: dict[str, Any]

    @property
    def step(self) -> int:
        """Learner steps that it is after."""
        return int(self.about["step"])

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays by name.

        Args:
          names: of those that are wanted; None: all.
        """
        import orbax.checkpoint as ocp

        place = (self.folder / ARRAYS).absolute()
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(place).item_metadata.tree
            wanted = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in (metadata if names is None else names)}
            item = dict.fromkeys(wanted, 0)
            return dict(checkpointer.restore(place, ocp.args.PyTreeRestore(item, wanted, partial_restore=True)))

    def rest(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Everything else. Only of a folder that is trusted: pickle runs what it is told to."""
        return Packed((self.folder / REST).read_bytes(), dict(arrays)).open()


class Checkpoints:
    """Checkpoints of one run.

    Args:
      folder: of the run.
      keep: how many of the newest are kept, beside the best.
      about: what all of them have in common: versions, and under "config" the keys that have to be the same.
    """

    def __init__(self, folder: Path, keep: int, about: Mapping[str, Any]):
        self.folder, self.keep, self.about = folder / FOLDER, keep, dict(about)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """True while one is being written."""
        return bool(self._under_way and not self._under_way.done())

    def save(self, step: int, arrays: dict[str, np.ndarray], pickled: bytes, **about: Any) -> None:
        """Begins to write one, behind whatever is under way. A disk that does not take it costs the run nothing else.

        Args:
          about: more for checkpoint.json: "accuracy" on held-out problems, if it was measured at this step.
        """
        self._under_way = self._writer.submit(self._save, step, arrays, pickled, about)

    def wait(self) -> None:
        """Until everything is written."""
        if self._under_way:
            self._under_way.result()

    def close(self) -> None:
        """Ends the writing, once it is done with what was begun."""
        self._writer.shutdown()
        self._remove_drafts()

    def newest(self) -> Checkpoint | None:
        """The newest that is as it was written. Those that are not are named in a warning.

        Raises:
          ConfigError: it is of another config, or of another version of rlbench.
        """
        self._remove_drafts()
        for folder in reversed(folders(self.folder)):
            try:
                found = intact(folder)
            except Damaged as error:
                log.warning("%s is damaged, and the one before is taken: %s", folder, error)
                continue
            self.expect_same(found)
            return found
        return None

    def expect_same(self, found: Checkpoint) -> None:
        """Holds a checkpoint to the config and the version that would go on from it.

        Raises:
          ConfigError: naming the first key that differs.
        """
        theirs, ours = found.about, json.loads(json.dumps(self.about))
        for name in ("rlbench", "schema"):
            if theirs.get(name) != ours.get(name):
                what = f"a checkpoint of rlbench with {name}={ours.get(name)}, not {theirs.get(name)}"
                raise ConfigError("checkpoint", found.folder, what)
        config, other = ours["config"], theirs["config"]
        for key in sorted(config.keys() | other.keys()):
            if config.get(key) != other.get(key):
                what = f"as in the run that {found.folder} is of: {other.get(key)}; or give this run another folder"
                raise ConfigError(key, config.get(key), what)
        for name in sorted(ours["machine"].keys() | theirs["machine"].keys()):
            before, now = theirs["machine"].get(name), ours["machine"].get(name)
            if before != now:
                log.warning("the run goes on with %s=%s instead of %s: last digits may differ", name, now, before)

    def _save(self, step: int, arrays: dict[str, np.ndarray], pickled: bytes, about: dict[str, Any]) -> None:
        name = f"step-{step:06}"
        draft = self.folder / f".{name}"
        try:
            write(draft, arrays, pickled, self.about | {"step": step} | about)
            shutil.rmtree(self.folder / name, ignore_errors=True)  # damaged, or it would have been gone on from
            os.rename(draft, self.folder / name)
            synchronised(self.folder)
            self._prune(step)
        except Exception as error:
            self._remove_drafts()
            log.warning("there is no checkpoint of step %d: %s", step, " ".join(f"{error}".split()))

    def _remove_drafts(self) -> None:
        """Removes what became no checkpoint. Orbax ends with the first error, while its other threads write on."""
        for _ in range(ATTEMPTS):
            for draft in self.folder.glob(".*"):
                shutil.rmtree(draft, ignore_errors=True)
            if not any(self.folder.glob(".*")):
                return
            time.sleep(PAUSE)

    def _prune(self, step: int) -> None:
        """Removes all but the newest and the best, of equally good ones the last.

        Later ones than that of the step just taken are damaged: or the run had gone on from them.
        """
        everything = folders(self.folder)
        there = [path for path in everything if step_of(path) <= step]
        measured = [(one, path) for path in there if (one := accuracy_of(path)) is not None]
        kept = {*there[-self.keep :], *([max(measured)[1]] if measured else [])}
        for path in everything:
            if path not in kept:
                gone = path.with_name(f".{path.name}")
                with contextlib.suppress(OSError):
                    os.rename(path, gone)  # in one move: half a checkpoint is none
                shutil.rmtree(gone, ignore_errors=True)


def folders(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the oldest first."""
    return sorted((path for path in folder.glob("step-*") if STEP.fullmatch(path.name)), key=step_of)


def step_of(folder: Path) -> int:
    """Learner steps that a checkpoint is after, by its name."""
    return int(folder.name.removeprefix("step-"))


def write(folder: Path, arrays: dict[str, np.ndarray], pickled: bytes, about: Mapping[str, Any]) -> None:
    """Writes a checkpoint into a new folder."""
    import orbax.checkpoint as ocp

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save((folder / ARRAYS).absolute(), arrays)
    (folder / REST).write_bytes(pickled)
    files = {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    text = json.dumps(dict(about) | {"files": files}, indent=1)
    (folder / ABOUT).write_text(text + "\n" + hashlib.sha256(text.encode()).hexdigest() + "\n")
    for path in (*files, ABOUT):
        synchronised(folder / path)


def intact(folder: Path) -> Checkpoint:
    """A checkpoint, of which every byte is as it was written.

    Raises:
      Damaged: one is not.
    """
    about = read_about(folder)
    files: dict[str, str] = about["files"]
    for name, expected in files.items():
        try:
            if digest(folder / name) != expected:
                raise Damaged(f"{name} has changed")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
    return Checkpoint(folder, about)


def read_about(folder: Path) -> dict[str, Any]:
    """checkpoint.json.

    Raises:
      Damaged: it is not as it was written.
    """
    try:
        text, _, expected = (folder / ABOUT).read_text().rstrip("\n").rpartition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{ABOUT}: {error}") from None
    if hashlib.sha256(text.encode()).hexdigest() != expected:
        raise Damaged(f"{ABOUT} has changed")
    about: dict[str, Any] = json.loads(text)
    return about


def accuracy_of(folder: Path) -> float | None:
    """Held-out accuracy at a checkpoint, if it was measured there."""
    with contextlib.suppress(Damaged):
        accuracy: float | None = read_about(folder).get("accuracy")
        return accuracy
    return None


def open_at(path: Path, size: int) -> TextIO:
    """Opens a file of lines behind its first bytes; what there was beyond is gone.

    Raises:
      ConfigError: it does not have so many.
    """
    file = path.open("r+" if size else "w", buffering=1)
    if os.fstat(file.fileno()).st_size < size:
        raise ConfigError("checkpoint", path, f"at least {size} bytes, which there were at the checkpoint")
    file.truncate(size)
    file.seek(size)
    return file


def add(file: TextIO, text: str) -> None:
    """Adds a text to a file of lines.

    Raises:
      NotWritten: the system does not take it.
    """
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        raise NotWritten(f"{file.name} cannot be written: {error.strerror}") from error


def size_of(file: TextIO) -> int:
    """Bytes of a file of lines so far, which are on the disk then."""
    file.flush()
    os.fsync(file.fileno())
    return os.fstat(file.fileno()).st_size


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def synchronised(path: Path) -> None:
    """Has the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system takes it of a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A block in which no other process runs in a folder. The lock ends with the process, however that ends.

    Raises:
      ConfigError: another one does.
    """
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("hydra.run.dir", folder, "a folder in which no other process runs") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): nothing keeps a second process out of it", folder, error.strerror)
        yield
