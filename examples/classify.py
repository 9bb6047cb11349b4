r"""Sort texts into classes, by what a model would say about them.

    $ python3 examples/classify.py "come back to the charger"
    dock         come back to the charger
                 dock 99.9%, goto 0.1%, unknown 0.0%, move 0.0%
    $ python3 examples/classify.py < lines.txt --json
    $ python3 examples/classify.py "I loved it" \
        --model m.trwkv --prompt "Review: {}\nIt is" --choices good bad

The bundled model, which is the default, tells what a robot is asked to do first. Behind the class
stand the shares of the likeliest classes. There are two ways to ask a model. The first compares
whole answers. The second takes the most probable token each time::

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
    from tinyrwkv.robot.scripts import VERBS, Number
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("NumPy is missing: apt install python3-numpy, or pip install numpy")

PROMPT = "User: {}\n\nAssistant:"

# Each class is said up to a place where the model's own tokens end: " turn(" is one token.
SAID = {
    verb: f" {verb}(" if argument is None or isinstance(argument, Number) else f' {verb}("'
    for verb, argument in {**VERBS, "unknown": None}.items()
}

BY = {
    "total": lambda scored: scored.logprob,
    "token": lambda scored: scored.per_token,
    "byte": lambda scored: scored.per_byte,
}


def classify(model, text, prompt, choices, by="total"):
    """Return the classes with their shares of the probability, and the one that the model writes.

    Parameters
    ----------
    model : tinyrwkv.Model
    text : str
    prompt : str
        With ``{}`` in place of the text.
    choices : dict of str to str
        What the model would say, for each class.
    by : str, optional
        "total", or the mean per "token" or "byte", if the choices differ much in length.

    Returns
    -------
    ranked : list of (str, float)
        Each class and its share, the best first.
    written : str
        The class whose text the model writes, token by token.
    """
    prompt = prompt.replace("{}", text)
    scored = model.score(prompt, choices.values())
    scores = {name: BY[by](one) for name, one in zip(choices, scored, strict=True)}
    best = max(scores.values())
    weights = {name: math.exp(score - best) for name, score in scores.items()}
    total = sum(weights.values())
    ranked = [(name, weight / total) for name, weight in weights.items()]
    ranked.sort(key=lambda pair: -pair[1])

    constraint = tinyrwkv.Choice(choices.values())
    greedy = tinyrwkv.Sampler(temperature=0)
    pieces = model.generate(prompt, constraint=constraint, sampler=greedy)
    written = "".join(piece.text for piece in pieces)
    return ranked, next(name for name, said in choices.items() if said == written)


def show(text, ranked, written, as_json):
    """Print the classes of a text."""
    best = ranked[0][0]
    if as_json:
        found = {"text": text, "class": best, "shares": dict(ranked), "written": written}
        print(json.dumps(found))
    else:
        print(f"{best:12} {text}")
        print(" " * 13 + ", ".join(f"{name} {share:.1%}" for name, share in ranked[:4]))


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
        "--prompt", default=PROMPT, help="the prompt, with {} for the text and \\n for a new line"
    )
    parser.add_argument(
        "--choices", nargs="+", metavar="C", help="the classes (default: the verbs of scripts)"
    )
    parser.add_argument(
        "--by",
        choices=BY,
        default="total",
        help="compare whole log-probabilities, or their mean over tokens or bytes",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for every text")
    options = parser.parse_args(argv)
    choices = {name: f" {name}" for name in options.choices} if options.choices else SAID
    try:
        model = tinyrwkv.load(options.model)
        texts = map(str.strip, sys.stdin) if options.text is None else [options.text]
        prompt = options.prompt.replace("\\n", "\n")
        for text in texts:
            ranked, written = classify(model, text, prompt, choices, options.by)
            show(text, ranked, written, options.json)
    except tinyrwkv.TinyRWKVError as error:
        print(f"classify: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
