"""Load a model: map its file, choose what runs it, and check it if that is asked for."""

from __future__ import annotations

import os
import sys

import numpy as np

from .arguments import refusal
from .core import Core
from .engine.backends import make
from .errors import ArgumentError, FormatError
from .file import memory
from .file.mapped import TensorFile, open_file
from .file.verify import verify as check_all
from .model import Model
from .native.load import choose
from .program.program import Program
from .tokenizer import Tokenizer
from .units import parse_size, show_size
from .versions.layout import check_tensors

BUNDLED = os.path.join(os.path.dirname(__file__), "models", "default.trwkv")


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    resident_limit: int | str | None = None,
    verify: bool = False,
    prefault: bool = False,
    lock: bool = False,
    copy: bool = False,
    draft: str | os.PathLike[str] | None = None,
) -> Model:
    """Map a model file and make it ready; no weight is read before the first token.

    Parameters
    ----------
    path : str or path-like, optional
        A .trwkv file; without one, the small model that ships in the package.
    backend : str
        "native", "numba", "numpy" or "auto". With "auto", the environment variable
        TINYRWKV_BACKEND decides; without it, the first of the three that can run.
    threads : int
        The most threads for each token; fewer while other programs want the cores. The result has
        the same bits for every number.
    resident_limit : int or str, optional
        Bytes of the file that may be in this process's memory at one time, or a size such as
        "12MB". It makes tokens slower but changes no result.
    verify : bool
        Compare the whole file with its checksums first, and look for weights that are no numbers.
    prefault : bool
        Read the whole file into memory now, so that no token waits for the disk.
    lock : bool
        Keep the file in memory as far as the system's limits allow (mlock); not together with a
        resident_limit.
    copy : bool
        Read the file into memory of this process instead of mapping it. Then the file may be
        changed or cut off in place. Without a copy, that can end the process (SIGBUS). Not together
        with a resident_limit.
    draft : str or path-like, optional
        The file of a smaller model of the same vocabulary, which guesses tokens for
        `Model.generate`. It changes no result. `backend`, `threads` and the four switches above
        are also for it, a resident_limit is not.

    Returns
    -------
    Model

    Raises
    ------
    FormatError
        The file is missing or damaged, or is not a model.
    ArgumentError, UnsupportedError
        A setting is out of range, this machine cannot do it, or the draft has another vocabulary.

    Notes
    -----
    ``logging.getLogger("tinyrwkv")`` tells at the level DEBUG what runs the model, and its limits.

    Examples
    --------
    >>> model = load(threads=2)
    >>> model.config["arch"], model.config["n_layer"], model.config["vocab_size"]
    ('v7', 8, 4096)
    """
    if path is None and not os.path.exists(BUNDLED):
        expected = "the model that ships in the package"
        fix = "give load() a .trwkv file: tinyrwkv-convert makes one from any RWKV checkpoint"
        sentence = f"the bundled model is missing: no such file: {BUNDLED}"
        raise FormatError(BUNDLED, "bundled model", "no file", expected, fix, sentence)
    switches = {"verify": verify, "prefault": prefault, "lock": lock, "copy": copy}
    for name, value in switches.items():
        if not isinstance(value, (bool, np.bool_)):
            raise refusal("load", name, value, "True or False", "give one of them")
        if value and name in ("lock", "copy") and resident_limit is not None:
            found = "a resident_limit too"
            expected = "one of them: the pages cannot be let go"
            sentence = f"load: {name} and resident_limit exclude each other: pages cannot be let go"
            raise ArgumentError("load", name, found, expected, "leave out one of them", sentence)
    limit = _bytes(resident_limit) if isinstance(resident_limit, str) else resident_limit
    file = open_file(BUNDLED if path is None else path, copy=bool(copy))
    if verify:
        check_all(file)
    model = make_model(file, backend, threads, limit)
    if prefault:
        memory.prefault(file, mapped=limit is None)
    if lock:
        memory.lock(file)
    if draft is not None:
        model.draft = load(
            draft,
            backend=backend,
            threads=threads,
            verify=verify,
            prefault=prefault,
            lock=lock,
            copy=copy,
        )
        check_draft(model, model.draft)
    _log(model)
    return model


def _bytes(resident_limit: str) -> int:
    try:
        return parse_size(resident_limit)
    except ArgumentError:
        expected = 'a number of bytes or a size such as "12MB"'
        fix = "give one of them"
        raise refusal("load", "resident_limit", resident_limit, expected, fix) from None


def _log(model: Model) -> None:
    """Tell those who listen what runs a model."""
    logging = sys.modules.get("logging")
    if logging is None:  # nobody has asked for messages, and to import it takes 3 ms
        return
    log = logging.getLogger(__package__)
    if not log.isEnabledFor(logging.DEBUG):
        return
    log.debug("loaded %r", model)
    if model.backend.name == "native":
        log.debug("kernels: %s", choose().path)
    limit = "none" if model.resident_limit is None else show_size(model.resident_limit)
    log.debug("resident limit: %s", limit)
    log.debug("at most in memory: %s of the file", show_size(model.plan()["resident_bytes_max"]))


def check_draft(model: Core, draft: object) -> None:
    """Raise an ArgumentError if something is not a model that can guess tokens for another one."""
    fix = "give a smaller model that was trained with the same vocabulary"
    if not isinstance(draft, Core):
        raise refusal("generate", "draft", draft, "a Model", fix)
    draft.file.check_open()
    found, expected = (one.config["vocab_size"] for one in (draft, model))
    if found != expected or not _same_texts(model, draft):
        sentence = f"{draft.path} cannot draft for {model.path}: their vocabularies differ"
        what = f"{found:,} tokens", f"the same {expected:,} tokens"
        raise ArgumentError(draft.path, "vocabulary", *what, fix, sentence)


def _same_texts(model: Core, draft: Core) -> bool:
    """Tell whether each token is the same text for both; a file without a tokenizer tells none."""
    names = [f"tokenizer.{name}" for name in Tokenizer.ARRAYS]
    if any(name not in one.file for name in names for one in (model, draft)):
        return True
    return all(np.array_equal(model.file[name], draft.file[name]) for name in names)


def make_model(
    file: TensorFile, backend: str = "auto", threads: int = 1, resident_limit: int | None = None
) -> Model:
    """Check the tensors of a file, then make the model that reads them.

    The kernels trust the places of tensors in a program, so every model of a file is made here.

    Parameters
    ----------
    file : TensorFile
    backend, threads, resident_limit
        As in `load`.

    Returns
    -------
    Model

    Raises
    ------
    FormatError
        The file is not a model, or a tensor is missing, unknown, or of the wrong type or shape.
    ArgumentError, UnsupportedError
        A setting is out of range, or this machine cannot do it.
    """
    check_tensors(file)
    program = Program(file)
    return Model(file, program, make(program, backend, threads), resident_limit)
