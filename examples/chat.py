"""Talk with a model in this terminal, from a checkout, with nothing but Python and NumPy.

    python3 examples/chat.py
    python3 examples/chat.py model.trwkv --system "Answer in one sentence." --resident-limit 12MB
    echo "bring me the red cup" | python3 examples/chat.py

It is the same as ``tinyrwkv chat``, and ``--help`` shows all options. The conversation itself is
``tinyrwkv.chat.chat.Chat``, which calls ``Model.generate`` for each answer::

    model = tinyrwkv.load()
    chat = Chat(model)
    for piece in chat.ask("Do you like pizza?"):
        print(piece.text, end="", flush=True)
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

try:
    from tinyrwkv.cli.cli import main
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    sys.exit("NumPy is missing: apt install python3-numpy, or pip install numpy")

if __name__ == "__main__":
    sys.exit(main(["chat", *sys.argv[1:]]))
