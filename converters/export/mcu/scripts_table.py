"""The grammar of a robot's scripts as a table: for each state and class of bytes the next state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyrwkv.constraints.automaton import DEAD, Automaton
from tinyrwkv.robot.scripts import Scripts


class ScriptsTable(NamedTuple):
    """A byte automaton. Nothing matches from state 0; texts begin in state 1.

    Attributes
    ----------
    classes : ndarray, uint8, shape (256,)
        The class of each byte.
    following : ndarray, uint16, shape (states, n_classes)
        The next state.
    accepts : ndarray, uint8, shape (states,)
        1 if the text may end here.
    """

    classes: np.ndarray
    following: np.ndarray
    accepts: np.ndarray


def scripts_table() -> ScriptsTable:
    """Return the table of all scripts, with any number as an argument.

    A grammar with bounds would make a model say another number: 2 for 20.
    """
    automaton = Automaton(Scripts().with_any_number().nfa)
    states = [DEAD, automaton.begin]
    places = {DEAD: 0, automaton.begin: 1}
    for state in states:  # grows meanwhile
        for following in automaton.row(state).tolist():
            if following not in places:
                places[following] = len(states)
                states.append(following)
    rows = [[places[following] for following in automaton.row(state).tolist()] for state in states]
    accepts = [automaton.accepts(state) for state in states]
    classes = np.frombuffer(automaton.classes, np.uint8)
    return ScriptsTable(classes, np.array(rows, np.uint16), np.array(accepts, np.uint8))
