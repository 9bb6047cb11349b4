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

from tinyrwkv.cli import exits
from tinyrwkv.cli.parser import Parser
from tinyrwkv.cli.terminal import Progress
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.config import CompressionStep
from tinyrwkv.units import show_size
from tinyrwkv.version import VERSION

from . import options
from .arguments import dtype, positive
from .checkpoint.adapter import USUAL_ALPHA
from .compress.compress import compress
from .compress.options import Options
from .compress.progress import Work, stages
from .export.gguf import export
from .export.mcu.export import export_mcu
from .export.mcu.kernels import targets
from .judge.by_text import JUDGE
from .judge.texts import name_of
from .read.open import path_of_all
from .write.convert import Adapter, convert
from .write.encode import DTYPES
from .write.parts import PARTS
from .write.tuned_state import write_tuned_state
from .write.vocab import find_world

NAME = "tinyrwkv-convert"

_EXAMPLES = """\
examples:
  tinyrwkv-convert rwkv.pth model.trwkv --vocab world
      The usual way: int8, a quarter of the size of float32. The vocabulary of World models,
      rwkv_vocab_v20230424.txt, is found beside rwkv.pth or in an installed rwkv package.
  tinyrwkv-convert rwkv.safetensors exact.trwkv --vocab vocab.txt --dtype f32
      Nothing is rounded.
  tinyrwkv-convert rwkv7-2.9b-Q4_K_M.gguf model.trwkv
      A file of llama.cpp. Its vocabulary is taken from it.
  tinyrwkv-convert rwkv7-2.9B-world/ model.trwkv
      A folder from a hub of models: config.json, the weights, and the vocabulary if it is there.
  tinyrwkv-convert exact.trwkv small.trwkv
      Convert a model file again, to int8. It keeps its vocabulary.
  tinyrwkv-convert rwkv.pth model.trwkv --vocab world --dtype int4 --calibrate book.txt
      Half the size of int8: the matrices of the layers in int4, fitted to a text (GPTQ).
      --parts all does the same to the embedding and the head. --round needs no text.
  tinyrwkv-convert rwkv.pth exact.trwkv --vocab world --preset exact
      The model reads less for each token and computes the same bits.
  tinyrwkv-convert rwkv.pth lite.trwkv --vocab world --preset lite \\
    --calibrate book.txt --report lite.html
      Read least for each token: layers in int4, predicted neurons, a preview of the head, fitted
      to a text. Without --calibrate they are fitted to text that the model writes itself.
  tinyrwkv-convert rwkv.pth lite.trwkv --vocab world --preset lite \\
    --calibrate book.txt --judge novel.txt letters.txt
      Show the loss on texts of other kinds too, where it is usually larger.
  tinyrwkv-convert rwkv.pth small.trwkv --vocab world --budget 24MB
      Search for the options that lose least and keep at most 24 MB of the file in memory.
  tinyrwkv-convert model.trwkv model.gguf
      Write a model file of RWKV-6 or 7 for llama.cpp. It keeps its type. This needs the extra gguf.
  tinyrwkv-convert model.trwkv firmware/ --mcu cortex-m7
      Write what a firmware of a microcontroller needs: see docs/microcontroller.md. This needs the
      extra native.
  tinyrwkv-convert rwkv.pth tuned.trwkv --vocab world --lora adapter.pth --lora-alpha 32
      Merge a LoRA adapter of RWKV-PEFT into its model.
  tinyrwkv-convert tuned.pth tuned.state --model model.trwkv
      Write a tuned state of RWKV-PEFT as a state of a model, for tinyrwkv chat --load.
  tinyrwkv-convert eval model.trwkv --text book.txt
      Judge how well a model predicts a text: see tinyrwkv-convert eval --help.
  tinyrwkv-convert recover rwkv.pth better.safetensors --vocab world --calibrate book.txt
      Train the int4 form of a checkpoint: see tinyrwkv-convert recover --help. Needs PyTorch.
  tinyrwkv-convert completion bash
  tinyrwkv-convert man
      Print what lets a shell complete the arguments, and the manual page.

INPUT is recognised by its contents: a PyTorch .pth (version 1.6 or newer; PyTorch is not needed),
a .safetensors file, a .gguf of rwkv6 or rwkv7 (F32 to Q2_K), a .bin of rwkv.cpp, a .trwkv file, or
the folder of one checkpoint. Of a checkpoint in several files, give any part, or all of them, or
the index. The parts lie beside each other. The version of RWKV, 4 to 8 rc00, is recognised by the
tensors. OUTPUT appears when it is complete; until then an older file of this name stays as it is.
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
        0; 1 after an error; 130 after Ctrl-C; 141 if nobody reads the output. A mistake in the
        arguments ends the process with 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return exits.run(NAME, partial(_run, arguments), "interrupted; nothing was written")


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["eval"]:
        from .evaluate import main as evaluate

        return evaluate(arguments[1:]) or 0
    if arguments[:1] == ["recover"]:
        from .recover.command import main as recover

        return recover(arguments[1:])
    if arguments[:1] in (["completion"], ["man"]):
        from .about import main as about

        return about(parser(), arguments)
    found = parser().parse_args(arguments)
    found.input = path_of_all(found.input)
    return _convert(found)


def parser() -> Parser:
    """Return the parser of the arguments."""
    made = Parser(
        prog=NAME,
        description="Convert an RWKV checkpoint to a .trwkv model file, or judge a file (eval).",
        epilog=_EXAMPLES,
    )
    made.add_argument("--version", action="version", version=f"{NAME} {VERSION}")
    made.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="checkpoint: .pth, .safetensors, .gguf, .bin or .trwkv, or the folder of one; "
        "of one in several files, any part or all",
    )
    made.add_argument(
        "output", metavar="OUTPUT", help="file to write: .trwkv or .gguf; or a folder"
    )
    made.add_argument(
        "--vocab",
        metavar="FILE",
        help="vocabulary to put into OUTPUT; 'world' finds the one of World models "
        "(default: the one that INPUT has)",
    )
    made.add_argument(
        "--dtype",
        type=dtype,
        choices=DTYPES,
        help="type of the matrices (default: int8; with --preset lite int4)",
    )
    made.add_argument(
        "--ln-x-eps",
        type=float,
        metavar="X",
        help="epsilon of the group norm in RWKV-5 to 7 (default: 64e-5)",
    )
    made.add_argument(
        "--template",
        metavar="NAME",
        help="chat template that the model was trained with, such as chat",
    )
    made.add_argument("--license", metavar="TEXT", help="licence of the weights, to be recorded")
    made.add_argument(
        "--mcu",
        metavar="CHIP",
        help="write what a firmware needs to run the .trwkv file INPUT into the folder OUTPUT: "
        f"{', '.join(targets())}",
    )
    _add_tuning(made)
    options.add_to(made)
    made.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    return made


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about what RWKV-PEFT trains beside a model."""
    group = parser.add_argument_group("adapters and tuned states of RWKV-PEFT")
    group.add_argument("--lora", metavar="FILE", help="LoRA or PiSSA adapter to merge into INPUT")
    group.add_argument(
        "--lora-alpha",
        type=positive,
        metavar="X",
        help=f"alpha of a LoRA adapter's training (default: {USUAL_ALPHA:g})",
    )
    group.add_argument(
        "--lora-init", metavar="FILE", help="initial file of a PiSSA adapter, which has no alpha"
    )
    group.add_argument(
        "--model",
        metavar="MODEL",
        help="write the tuned state in INPUT to OUTPUT, a state of this .trwkv model",
    )


def _convert(arguments: argparse.Namespace) -> int:
    wanted = options.read(arguments)
    with _end_by_exception(), Progress("", io.StringIO() if arguments.quiet else sys.stderr) as bar:
        work = Work(_stages(arguments, wanted))

        def tell(stage: str, done: int, total: int) -> None:
            share = work(stage, done, total)
            bar.label = f"{stage:<16} {work.left(share):>12}"
            bar(round(1000 * share), 1000)

        report = _write(arguments, wanted, tell)
    if arguments.json:
        print(json.dumps(report, indent=1))
    elif not arguments.quiet:
        print(_summary(report))
        for note in report.get("notes", []):
            print(f"note: {note}", file=sys.stderr)
    return 0


def _stages(arguments: argparse.Namespace, wanted: Options | None) -> list[str]:
    """Return the stages that the progress is shown over."""
    if arguments.output.lower().endswith(".gguf"):
        return ["export"]
    texts = [name_of(path) for path in arguments.judge or ()]
    return stages(wanted, arguments.calibrate is None, texts, arguments.budget is not None)


def _write(
    arguments: argparse.Namespace, wanted: Options | None, tell: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Write OUTPUT in the way that the arguments ask for, and return the report."""
    if arguments.model is not None:
        why = "belongs to a model, but --model writes a state"
        _check_alone(arguments, ("model",), why, "convert the model with it first")
        return write_tuned_state(arguments.input, arguments.output, arguments.model)
    if arguments.mcu is not None:
        why = "changes the model, but --mcu takes it as it is"
        _check_alone(arguments, ("mcu",), why, "write a .trwkv with it first, then export that")
        return export_mcu(arguments.input, arguments.output, arguments.mcu, partial(tell, "export"))
    if arguments.output.lower().endswith(".gguf"):
        why = "changes the model, but a .gguf is written without changes"
        fix = "write a .trwkv with it first, then the .gguf from that"
        _check_alone(arguments, (), why, fix)
        return export(arguments.input, arguments.output, partial(tell, "export"))
    files = _files(arguments)
    if wanted is None:
        return convert(
            **files,
            dtype=arguments.dtype or "int8",
            progress=partial(tell, "convert"),
            parts=arguments.parts or PARTS[0],
        )
    return compress(
        **files,
        options=wanted,
        budget=arguments.budget,
        calibrate=arguments.calibrate,
        judge=arguments.judge or (),
        report=arguments.report,
        tell=tell,
        weigh=not arguments.quiet,
    )


def _files(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all conversions take: the files, and what the user says about the model."""
    names = ("input", "output", "vocab", "ln_x_eps", "template", "license")
    files = {name: getattr(arguments, name) for name in names}
    if arguments.vocab == "world":
        files["vocab"] = find_world(arguments.input)
    return {**files, "adapter": _adapter(arguments)}


def _adapter(arguments: argparse.Namespace) -> Adapter | None:
    """Return the adapter to merge, if there is one."""
    if arguments.lora is not None:
        return Adapter(arguments.lora, arguments.lora_alpha, arguments.lora_init)
    for flag, value in (
        ("--lora-alpha", arguments.lora_alpha),
        ("--lora-init", arguments.lora_init),
    ):
        if value is not None:
            sentence = f"{flag} belongs to an adapter, but there is none"
            what = ("arguments", "options", flag, "--lora beside it")
            raise ArgumentError(*what, "give the adapter with --lora", sentence)
    return None


def _check_alone(
    arguments: argparse.Namespace, allowed: tuple[str, ...], why: str, fix: str
) -> None:
    """Refuse options beside those that are allowed; `why` follows the name of the option."""
    default = parser().get_default
    free = ("input", "output", "quiet", "json", *allowed)
    for name, value in vars(arguments).items():
        if name not in free and value != default(name):
            flag = "--" + name.replace("_", "-")
            raise ArgumentError(
                "arguments", "options", flag, "no such option", fix, f"{flag} {why}"
            )


@contextlib.contextmanager
def _end_by_exception() -> Iterator[None]:
    """Turn a request to end (SIGTERM) into an exception, so that unfinished files are removed."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # only the main thread can set signals
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, end))
        yield


def _summary(report: dict[str, Any]) -> str:
    if report.get("format") == "mcu":
        needed = report["state_bytes"] * 2 + report["workspace_bytes"]
        return (
            f"{report['output']}: {', '.join(report['files'])} for {report['target']}; "
            f"{show_size(report['file_bytes'])} to flash, {show_size(needed)} of RAM"
        )
    if "model" in report:
        about = f"a tuned state of {report['model']}, RWKV {report['arch']}"
        return f"{report['output']}: {about}, {show_size(report['file_bytes'])}"
    steps = report.get("compression", [])
    lines = [
        f"{report['output']}: RWKV {report['arch']}, "
        f"{report['n_layer']} layers of {report['n_embd']}, "
        f"vocabulary {report['vocab_size']}, {report['dtype']}{_rounding(report['dtype'], steps)}, "
        f"{report['file_bytes'] / 1e6:.1f} MB, {report['seconds']:.1f} s"
    ]
    for step in steps:
        found = step["report"]
        if "nll_delta" in found:
            top1 = 100 * found["top1_delta"]
            loss = f"nll {found['nll_delta']:+.4f}, top-1 {top1:+.2f} %"
            what = step["technique"]
            if what == JUDGE:
                what = f"all, on {step['params']['text']}"
            lines.append(f"  {what}: {loss}")
        elif "differing_logits" in found:
            lines.append(f"  {step['technique']}: {found['differing_logits']} logits differ")
    if "gain" in report:
        lines.append(_gain(**report["gain"]))
    if "search" in report:
        found = report["search"]
        resident, budget = show_size(found["resident"]), show_size(found["budget"])
        lines.append(f"  chosen: {found['chosen']}; {resident} resident, of {budget}")
    if "report" in report:
        lines.append(f"  pictures: {report['report'][0]}")
    return "\n".join(lines)


def _gain(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return what a token costs with all techniques together, beside what it cost before."""
    touched, resident = (
        f"{show_size(round(after[key]))} instead of {show_size(round(before[key]))}"
        if after[key] is not None
        else ""
        for key in ("touched_bytes_per_token", "resident_bytes")
    )
    speeds = f"{after['tokens_per_second']:.0f} instead of {before['tokens_per_second']:.0f}"
    parts = [f"a token reads {touched}", f"{speeds} tokens/s"]
    if resident:
        parts.insert(1, f"{resident} resident")
    return f"  gain: {'; '.join(parts)}"


def _rounding(dtype: str, steps: list[CompressionStep]) -> str:
    """Return by how much rounding changed the weights, to follow the type of the matrices."""
    for step in steps:
        if step["technique"] == dtype and "relative_error" in step["report"]:
            return f", weights off by {100 * step['report']['relative_error']:.2g} %"
    return ""
