"""Talk with a model in this terminal, from a plain checkout: nothing needs to be installed but Python and NumPy.

    python3 examples/chat.py
    python3 examples/chat.py model.trwkv --system "Answer in one sentence." --resident-limit 12MB
    echo "bring me the red cup" | python3 examples/chat.py

The same as ``tinyrwkv chat``; all options: ``python3 examples/chat.py --help``. The conversation itself is
``tinyrwkv.chat.chat.Chat``, and what an answer is made of is ``Model.generate``::

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
