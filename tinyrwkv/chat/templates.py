r"""Chat templates: how a model was taught to tell whose turn it is.

========== ========================================= ============== ===============================
name       a turn, up to where the model writes      the answer     for
                                                     ends at
========== ========================================= ============== ===============================
chat       ``User: ...\n\nAssistant:``               ``\n\nUser:``  World and G1 models
think      ``User: ...\n\nAssistant: <think``        ``\n\nUser:``  G1 models that think first
think-fast ``... Assistant: <think>\n</think``       ``\n\nUser:``  G1 models, an empty thought
robot      ``User: ...\n\nAssistant:``               ``\n\n``       models that answer in one
                                                                    paragraph
raven      ``Bob: ...\n\nAlice:``                    ``\n\n``       Raven models (v4)
none       the text as it is                         nothing        plain continuation
========== ========================================= ============== ===============================

Token 0, the end of a document, ends every answer. No prompt ends with a space: the models write it
themselves, as part of the first word's token. For the same reason no prompt ends with the ``>`` of
a tag. The forms of G1 models are those of RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM. A
conversation that goes on has the answers alone: ``Assistant: ...``, without the thoughts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ArgumentError


@dataclass(frozen=True)
class Thoughts:
    """How a model thinks before it answers.

    Parameters
    ----------
    begin : str
        The first tag, after "Assistant:". The model writes the ``>`` that closes it.
    end : str
        The last tag.
    written : bool
        Whether the model writes the thought. If not, it is sent an empty one.
    """

    begin: str = " <think"
    end: str = "</think>"
    written: bool = True

    @property
    def empty(self) -> str:
        """An empty thought, up to the ``>`` that the model writes."""
        return self.begin + self.closing("")

    def closing(self, text: str) -> str:
        """Return what ends a thought that the model has not ended, up to the last ``>``.

        Parameters
        ----------
        text : str
            What the model has written after `begin`.
        """
        bracket = "" if text.startswith(">") else ">"
        line_break = "" if text.endswith("\n") else "\n"
        return bracket + line_break + self.end[:-1]


@dataclass(frozen=True)
class Template:
    r"""The texts around the turns of a conversation.

    A conversation begins with ``system(...)``, if there is a system text. Every turn is
    ``user(...)``, `answer_prefix`, then the model's answer up to a stop string. `between` stands
    between turns.

    Parameters
    ----------
    name : str
        Its key in `TEMPLATES` and the value of ``template`` in a model file.
    system_form, user_form : str
        With ``{}`` for the text.
    answer_prefix : str
        The text that the model continues. It never ends with a space.
    between : str
        What stands after an answer if another turn follows.
    stop : tuple of str
        What the model writes when its answer is complete.
    clean : bool
        Whether empty lines are removed from texts, because an empty line ends a turn.
    thoughts : Thoughts, optional
        How the model thinks before it answers. By default it does not.

    Examples
    --------
    >>> TEMPLATES["robot"].prompt("turn left\n\nplease")
    'User: turn left\nplease\n\nAssistant:'
    >>> TEMPLATES["think"].prompt("Why?")
    'User: Why?\n\nAssistant: <think'
    """

    name: str
    system_form: str = "System: {}\n\n"
    user_form: str = "User: {}\n\n"
    answer_prefix: str = "Assistant:"
    between: str = "\n\n"
    stop: tuple[str, ...] = ("\n\nUser:",)
    clean: bool = True
    thoughts: Thoughts | None = None

    @property
    def opening(self) -> str:
        """What stands between `answer_prefix` and what the model writes."""
        if self.thoughts is None:
            return ""
        return self.thoughts.begin if self.thoughts.written else self.thoughts.empty

    @property
    def lead(self) -> str:
        """What the model writes before the first word of an answer."""
        if self.thoughts is not None:
            return ">\n"
        return " " if self.clean else ""

    @property
    def turn_lead(self) -> str:
        """What stands between an answer and what the user says next."""
        return self.between + self.user_form.partition("{}")[0]

    def system(self, text: str) -> str:
        """Return the beginning of a conversation with a system text; empty if `text` is empty."""
        text = self._clean(text)
        return self.system_form.replace("{}", text) if text else ""

    def user(self, text: str) -> str:
        """Return the user's part of a turn."""
        return self.user_form.replace("{}", self._clean(text))

    def prompt(self, text: str, first: bool = True, system: str = "") -> str:
        """Return what to send for a turn.

        Parameters
        ----------
        text : str
            What the user says.
        first : bool, optional
            Whether the conversation begins here. If not, the state has read it up to the end of
            the last answer, without the stop string.
        system : str, optional
            Instructions before the first turn.
        """
        return self.turn(text, first, system) + self.opening

    def turn(self, text: str, first: bool = True, system: str = "") -> str:
        """Return the part of `prompt` that stays in the conversation: no thought is in it."""
        before = self.system(system) if first else self.between
        return before + self.user(text) + self.answer_prefix

    def answer(self, text: str) -> str:
        r"""Return an answer as a conversation that goes on has it.

        It is written as the model itself writes it, behind a space. A text that would end an answer
        loses its empty lines.

        Examples
        --------
        >>> TEMPLATES["robot"].answer("One.\n\nTwo. ")
        ' One.\nTwo.'
        """
        if not self.clean:
            return text
        text = text.replace("\r\n", "\n").strip()
        if any(stop in text for stop in self.stop):
            text = re.sub(r"\n\s*\n", "\n", text)
        return f" {text}" if text else ""

    def _clean(self, text: str) -> str:
        if not self.clean:
            return text
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        return re.sub(r"\n\s*\n", "\n", text)


TEMPLATES = {
    built.name: built
    for built in (
        Template("chat"),
        Template("think", thoughts=Thoughts()),
        Template("think-fast", thoughts=Thoughts(written=False)),
        Template("robot", stop=("\n\n",)),
        Template(
            "raven",
            system_form="{}\n\n",
            user_form="Bob: {}\n\n",
            answer_prefix="Alice:",
            stop=("\n\n",),
        ),
        Template("none", "{}", "{}", answer_prefix="", between="", stop=(), clean=False),
    )
}


def template(name: str) -> Template:
    """Return a built-in template.

    Raises
    ------
    ArgumentError
        There is no template of that name.
    """
    if name not in TEMPLATES:
        from difflib import get_close_matches  # here, because few people need it

        expected = f"one of {', '.join(TEMPLATES)}"
        sentence = f"there is no template {name!r}, only {', '.join(TEMPLATES)}"
        what = ("templates", "template", repr(name), expected)
        near = get_close_matches(name, TEMPLATES, 1)
        fix = f"did you mean {near[0]}?" if near else "choose one of these"
        raise ArgumentError(*what, fix, sentence)
    return TEMPLATES[name]
