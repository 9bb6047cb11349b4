"""Check that a file is a whole model: whatever is written under a final name loads and runs."""

from __future__ import annotations

from tinyrwkv.errors import TinyRWKVError
from tinyrwkv.file.mapped import TensorFile, open_file
from tinyrwkv.file.writer import Writer
from tinyrwkv.loading import make_model


def check_whole(file: TensorFile, with_tokenizer: bool = True) -> None:
    """Check a file as loading a model does, and build the program that reads a token.

    No weight is read, so this takes milliseconds and no memory for a model of any size.

    Parameters
    ----------
    file : TensorFile
    with_tokenizer : bool
        Check the tokenizer too, if there is one.

    Raises
    ------
    FormatError, UnsupportedError
        What `tinyrwkv.load`, or the first use of the tokenizer, would raise.
    """
    model = make_model(file, backend="numpy")
    has_tokenizer = any(name.startswith("tokenizer.") for name in file.tensors)
    if with_tokenizer and has_tokenizer:
        len(model.tokenizer)


class ModelWriter(Writer):
    """Write a model file, which gets its name only if it would load."""

    def check(self, temporary: str) -> None:
        """Check the complete file, before it gets its name."""
        try:
            with open_file(temporary) as file:
                check_whole(file)
        except TinyRWKVError as error:
            sentence = error.sentence.replace(temporary, self.path)
            what = (error.object, error.found, error.expected, error.fix)
            raise type(error)(self.path, *what, sentence) from None
