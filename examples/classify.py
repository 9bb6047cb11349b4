r"""Put a text into one of several classes, by what a model expects to be said about it.

    python3 examples/classify.py "could you have a look behind you"
    python3 examples/classify.py < lines.txt --json
    python3 examples/classify.py "I loved it" --model m.trwkv --prompt "Review: {}\nIt is" --choices good bad

Without a model file the bundled one tells what a robot is asked for first. Two ways of asking, of which the first
compares whole answers and the second takes the most probable token wherever there is a choice::

    scores = model.score(prompt, [" positive", " negative"])
    for piece in model.generate(prompt, constraint=tinyrwkv.Choice([" positive", " negative"])): ...
"""

import argparse
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

try:
    import tinyrwkv
    from tinyrwkv.robot.scripts import VERBS
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("NumPy is missing: apt install python3-numpy, or pip install numpy")

PROMPT = "User: {}\n\nAssistant:"

BY = {
    "total": lambda scored: scored.logprob,
    "token": lambda scored: scored.per_token,
    "byte": lambda scored: scored.per_byte,
}


def classify(model, text, prompt, choices, by="total"):
    """Return the choices with their shares of the probability, the best first, and what the model itself would write.

    Parameters
    ----------
    model : tinyrwkv.Model
    text : str
    prompt : str
        With ``{}`` for the text.
    choices : dict of str to str
        What the model would say, for each class.
    by : str, optional
        "total", or the mean over each "token" or "byte", where the choices differ much in length.

    Returns
    -------
    list of (str, float)
    str
    """
    prompt = prompt.replace("{}", text)
    scores = dict(zip(choices, map(BY[by], model.score(prompt, choices.values())), strict=True))
    best = max(scores.values())
    shares = {name: math.exp(score - best) for name, score in scores.items()}
    total = sum(shares.values())
    ranked = sorted(
        ((name, share / total) for name, share in shares.items()), key=lambda pair: -pair[1]
    )
    constraint = tinyrwkv.Choice(choices.values())
    greedy = tinyrwkv.Sampler(temperature=0)
    written = "".join(
        piece.text for piece in model.generate(prompt, constraint=constraint, sampler=greedy)
    )
    return ranked, next(name for name, said in choices.items() if said == written)


def main(argv=None):
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", metavar="FILE", help="a .trwkv file; by default the bundled model"
    )
    parser.add_argument(
        "text", nargs="?", help="what to classify; by default every line of standard input"
    )
    parser.add_argument(
        "--prompt", default=PROMPT, help="what to ask, {} for the text; \\n is a new line"
    )
    parser.add_argument(
        "--choices", nargs="+", metavar="C", help="the answers (default: verbs of scripts)"
    )
    parser.add_argument(
        "--by", choices=BY, default="total", help="what of the log-probability to compare"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for every text")
    options = parser.parse_args(argv)
    names = options.choices or [*VERBS, "unknown"]
    choices = {name: f" {name}" for name in names}
    try:
        model = tinyrwkv.load(options.model)
        for text in [options.text] if options.text is not None else map(str.strip, sys.stdin):
            ranked, written = classify(
                model, text, options.prompt.replace("\\n", "\n"), choices, options.by
            )
            if options.json:
                print(
                    json.dumps(
                        {
                            "text": text,
                            "class": ranked[0][0],
                            "shares": dict(ranked),
                            "written": written,
                        }
                    )
                )
            else:
                print(f"{ranked[0][0]:12} {text}")
                print(
                    "             " + ", ".join(f"{name} {share:.1%}" for name, share in ranked[:4])
                )
    except tinyrwkv.TinyRWKVError as error:
        print(f"classify: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
