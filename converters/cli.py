"""The command ``tinyrwkv-convert``."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tinyrwkv.cli.terminal import Progress
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.units import show_size

from . import options as compression
from .compress.presets import compress
from .export.gguf import export
from .write.convert import convert
from .write.encode import DTYPES
from .write.vocab import find_world

_EXAMPLES = """\
examples:
  tinyrwkv-convert rwkv.pth model.trwkv --vocab world
      int8, a quarter of float32; the usual way. The vocabulary of World models, rwkv_vocab_v20230424.txt, is found
      beside rwkv.pth or in an installed rwkv package
  tinyrwkv-convert rwkv.safetensors exact.trwkv --vocab vocab.txt --dtype f32
      nothing is rounded
  tinyrwkv-convert exact.trwkv small.trwkv
      a model file again, to int8; it keeps its vocabulary
  tinyrwkv-convert rwkv.pth exact.trwkv --vocab world --preset exact
      reads less for each token, computes the same
  tinyrwkv-convert rwkv.pth lite.trwkv --vocab world --preset lite --calibrate book.txt --report lite.html
      all of RWKV-Lite, fitted to a text; without --calibrate to what the model writes itself
  tinyrwkv-convert rwkv.pth small.trwkv --vocab world --budget 24MB
      whatever loses least and keeps at most 24 MB of the file in memory
  tinyrwkv-convert model.trwkv model.gguf
      for llama.cpp: a model file of RWKV-6 or 7, in its type (needs the extra gguf)
  tinyrwkv-convert eval model.trwkv --text book.txt
      how good a model file is: see tinyrwkv-convert eval --help

The kind of INPUT is found from its contents: a PyTorch .pth (from version 1.6 on; PyTorch is not needed), a
.safetensors file, a .gguf of rwkv6 or rwkv7, a .bin of rwkv.cpp, or a .trwkv file. The version (RWKV-4 to 7) is found
from the tensors. OUTPUT appears when it is complete; an older file of this name stays until then.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0, or 1 after an error, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["eval"]:
            from .evaluate import main as evaluate

            return evaluate(arguments[1:]) or 0
        return _convert(_parser().parse_args(arguments))
    except TinyRWKVError as error:
        print(f"tinyrwkv-convert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntinyrwkv-convert: interrupted; nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinyrwkv-convert",
        description="Convert an RWKV checkpoint to a .trwkv model file, or judge one (eval).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "input", metavar="INPUT", help="checkpoint: .pth, .safetensors, .gguf, .bin or .trwkv"
    )
    parser.add_argument("output", metavar="OUTPUT", help="model file to write, or a .gguf")
    parser.add_argument(
        "--vocab",
        metavar="FILE",
        help="vocabulary packed into OUTPUT; world finds that of World models",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="int8", help="type of the matrices (default: int8)"
    )
    parser.add_argument(
        "--ln-x-eps",
        type=float,
        metavar="X",
        help="epsilon of the group norm of RWKV-5 to 7 (default: 64e-5)",
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="chat template that the model was trained with, e.g. chat",
    )
    parser.add_argument("--license", metavar="TEXT", help="licence of the weights, for the record")
    compression.add_to(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _convert(options: argparse.Namespace) -> int:
    wanted = compression.read(options)
    with _tidy_end(), Progress("", io.StringIO() if options.quiet else sys.stderr) as bar:

        def tell(stage: str, done: int, total: int) -> None:
            bar.label = f"{stage:<16}"
            bar(done, total)

        if options.output.lower().endswith(".gguf"):
            report = _export(options, partial(tell, "export"))
        elif wanted is None:
            report = convert(
                **_paths(options), dtype=options.dtype, progress=partial(tell, "convert")
            )
        else:
            fitted = {
                "budget": options.budget,
                "calibrate": options.calibrate,
                "report": options.report,
            }
            report = compress(**_paths(options), options=wanted, **fitted, tell=tell)
    if options.json:
        print(json.dumps(report, indent=1))
    elif not options.quiet:
        print(_summary(report))
        for note in report["notes"]:
            print(f"note: {note}", file=sys.stderr)
    return 0


def _paths(options: argparse.Namespace) -> dict[str, Any]:
    names = ("input", "output", "vocab", "ln_x_eps", "template", "license")
    paths = {name: getattr(options, name) for name in names}
    return paths | {"vocab": find_world(options.input)} if options.vocab == "world" else paths


def _export(options: argparse.Namespace, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write a .gguf, which no option changes."""
    parser = _parser()
    free = ("input", "output", "quiet", "json")
    given = [
        name
        for name, value in vars(options).items()
        if value != parser.get_default(name) and name not in free
    ]
    if given:
        found, fix = (
            "--" + given[0].replace("_", "-"),
            "write a .trwkv with it first, then the .gguf from that",
        )
        raise ArgumentError(
            "arguments", "options", found, "none of those that change a model, for a .gguf", fix
        )
    return export(options.input, options.output, progress)


@contextlib.contextmanager
def _tidy_end() -> Iterator[None]:
    """Let a request to end (SIGTERM) remove what is half done, as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # not the main thread
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, end))
        yield


def _summary(report: dict[str, Any]) -> str:
    lines = [
        f"{report['output']}: RWKV {report['arch']}, {report['n_layer']} layers of {report['n_embd']}, "
        f"vocabulary {report['vocab_size']}, {report['dtype']}{_weights_off(report)}, "
        f"{report['file_bytes'] / 1e6:.1f} MB, {report['seconds']:.1f} s"
    ]
    for step in report.get("compression", []):
        found = step["report"]
        if "nll_delta" in found:
            lines.append(
                f"  {step['technique']}: nll {found['nll_delta']:+.4f}, top-1 {100 * found['top1_delta']:+.2f} %"
            )
        elif "differing_logits" in found:
            lines.append(f"  {step['technique']}: {found['differing_logits']} logits differ")
    if "search" in report:
        found = report["search"]
        lines.append(
            f"  chosen: {found['chosen']}; {show_size(found['resident'])} resident, of {show_size(found['budget'])}"
        )
    if "report" in report:
        lines.append(f"  pictures: {report['report'][0]}")
    return "\n".join(lines)


def _weights_off(report: dict[str, Any]) -> str:
    for step in report.get("compression", []):
        if step["technique"] in DTYPES and "relative_error" in step["report"]:
            return f", weights off by {100 * step['report']['relative_error']:.2g} %"
    return ""
