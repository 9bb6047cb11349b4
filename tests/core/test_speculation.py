"""Tokens read ahead: whatever is guessed, a generation is bit for bit the one without guesses."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import (
    VOCAB_SIZE,
    VOCABULARY,
    is_exact,
    rewrite,
    shape_of,
    tokenizer_tensors,
    write_model,
)
from tinyrwkv import ArgumentError, Choice, JsonSchema, Regex, Sampler
from tinyrwkv import generate as module
from tinyrwkv.engine import pace as pace_module
from tinyrwkv.generate import Generation
from tinyrwkv.reading import MOST_AT_ONCE, MOST_CHUNKS
from tinyrwkv.speculate.chance import Chance
from tinyrwkv.speculate.costs import Costs
from tinyrwkv.speculate.draft import Draft
from tinyrwkv.speculate.forced import Forced
from tinyrwkv.speculate.lookup import GRAM, LONGEST, WINDOW, Lookup
from tinyrwkv.speculate.speculation import Guesses
from tinyrwkv.versions.layout import VERSIONS

MODELS = st.one_of(
    st.tuples(st.sampled_from(VERSIONS), st.just("int8"), st.just("dense")),
    st.tuples(st.sampled_from(VERSIONS), st.just("int4"), st.just("dense")),
    st.tuples(st.sampled_from(("v5.2", "v7")), st.sampled_from(("f32", "f16")), st.just("dense")),
    st.tuples(
        st.sampled_from(VERSIONS),
        st.just("int8"),
        st.sampled_from(("compressed", "predicted", "networked", "previewed")),
    ),
)

SAMPLERS = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0, 0.5, 1.0, 3.0]), "seed": st.integers(0, 9)},
    optional={
        "top_p": st.sampled_from([0.3, 0.9]),
        "top_k": st.integers(2, 9),
        "presence_penalty": st.just(0.5),
        "frequency_penalty": st.just(0.3),
        "repetition_penalty": st.just(1.3),
    },
)

CONSTRAINTS = {
    "": None,
    "choice": Choice(["abcabc the abc", "abcabc é"]),
    "words": Regex(r"(abc the (é|ab)*User:[ab]{2}, ){1,9}"),
    "any": Regex(".*"),
    "json": JsonSchema(
        {
            "type": "object",
            "properties": {"abc": {"type": "boolean"}, "the": {"enum": ["ab", "abc"]}},
            "required": ["abc", "the"],
        }
    ),
}


class FixedCosts(Costs):
    """Any number of tokens costs as much as one, however long they take here."""

    def learn(self, tokens: int, seconds: float) -> None:
        super().learn(tokens, 1.0)


class Told:
    """Guesses what is known to come, but some tokens wrong, in chunks of lengths that are drawn."""

    def __init__(self, text: Sequence[int], wrong: set[int], lengths: list[int]) -> None:
        self.text = [
            (token + 1) % VOCAB_SIZE if i in wrong else token for i, token in enumerate(text)
        ]
        self.lengths = lengths
        self.heard = 0
        self.rights: list[int] = []
        self.proposed = 0

    def hear(self, tokens: Iterable[int]) -> None:
        self.heard += len(list(tokens))

    def choose(self, token: int) -> None:
        self.heard += 1

    def propose(self, most: int) -> Sequence[int]:
        assert 1 <= most < MOST_AT_ONCE
        length = self.lengths[self.heard % len(self.lengths)] if self.lengths else most
        found = self.text[self.heard :][: min(length, most)]
        self.proposed += len(found)
        return found

    def judge(self, read: int, right: int) -> None:
        assert 0 <= right <= read < MOST_AT_ONCE
        self.rights.append(right)

    def learn(self, tokens: int, seconds: float) -> None:
        assert 1 <= tokens <= MOST_AT_ONCE and seconds >= 0


def with_guesses(make: Any, guesses: Any) -> Generation:
    """Make a generation that is given its guesses; none for None."""
    before = Generation.speculate
    Generation.speculate = staticmethod(lambda *_: guesses)
    try:
        return make()
    finally:
        Generation.speculate = staticmethod(before)


def outcome(generation: Generation, most: int = 10**9, logits: bool = True) -> list[Any]:
    """Return all that a generation does up to a number of pieces, then cancelled."""
    found: list[Any] = []
    for piece in generation:
        found.append(piece)
        if logits:
            found.append(generation.logits.tobytes())
        if len(generation.result.tokens) >= most:
            generation.cancel()
    result = generation.result
    found += [result.text, result.tokens, result.stop_reason, result.unread]
    found += [result.state.tokens, result.state.data.tobytes()]
    # The next choices tell the state of the random numbers and the counts of the penalties.
    row = np.sin(np.arange(VOCAB_SIZE, dtype=np.float32))
    found += [generation.sampler.sample(row) for _ in range(3)]
    return found


@given(
    MODELS,
    SAMPLERS,
    st.sampled_from(sorted(CONSTRAINTS)),
    st.lists(st.sampled_from(["ab", "c", "é", " the", "User:", "\n\n"]), max_size=2),
    st.integers(0, 24),
    st.integers(1, 30),
    st.sets(st.integers(0, 40), max_size=12),
    st.lists(st.integers(0, 9), max_size=5),
)
@settings(max_examples=60)
def test_no_guess_changes_a_bit(
    load, compiled, which, options, name, stops, most, cancel, wrong, lengths
):
    arch, dtype, form = which
    model = load(compiled, arch, dtype, 1, form)
    prompt = [3, 258, 4, 258]

    def make() -> Generation:
        return model.generate(
            prompt,
            sampler=Sampler(**options),
            max_tokens=most,
            stop=stops,
            constraint=CONSTRAINTS[name],
        )

    plain = with_guesses(make, None)
    expected = outcome(plain, cancel)
    assert plain.result.proposed == plain.result.accepted == 0
    text = [0, *prompt, *plain.result.tokens]
    told = Told(text, {len(prompt) + 1 + place for place in wrong}, lengths)
    guessed = with_guesses(make, told)
    assert outcome(guessed, cancel) == expected
    result = guessed.result
    assert result.proposed == told.proposed and sum(told.rights) <= result.accepted
    if not wrong and not lengths and len(result.tokens) > 2 and "\ufffd" not in result.text:
        assert result.accepted > 0


@given(MODELS, st.integers(0, 60), st.sampled_from(["", "words", "json"]), st.integers(0, 5))
@settings(max_examples=40)
def test_a_deadline_ends_where_it_could_without_guesses(load, compiled, which, ticks, name, seed):
    arch, dtype, form = which
    model = load(compiled, arch, dtype, 1, form)
    prompt, begin = [3, 258, 4], 1000.0
    options = {"max_tokens": 12, "constraint": CONSTRAINTS[name]}
    plain = with_guesses(
        lambda: model.generate(prompt, sampler=Sampler(seed=seed), **options), None
    )
    whole = outcome(plain)
    tokens = plain.result.tokens
    told = Told([0, *prompt, *tokens], set(), [])
    before, pause = module.time, pace_module.PAUSE
    module.time, pace_module.PAUSE = Clock(begin), 0.0
    try:
        sampler = Sampler(seed=seed)
        deadline = begin + ticks
        cut = with_guesses(
            lambda: model.generate(prompt, sampler=sampler, deadline=deadline, **options), told
        )
        list(cut)
    finally:
        module.time, pace_module.PAUSE = before, pause
    result = cut.result
    assert result.stop_reason in ("deadline", plain.result.stop_reason)
    assert tokens[: len(result.tokens)] == result.tokens
    text = [0, *prompt, *result.tokens]
    read = text[: result.state.tokens]
    assert read + result.unread == text
    state = model.forward(read)[1] if read else model.new_state()
    assert state.data.tobytes() == result.state.data.tobytes()
    if result.stop_reason == "deadline" and not name:
        left = 12 - len(result.tokens)
        rest = model.generate(
            result.unread, state=result.state, sampler=cut.sampler, max_tokens=left
        )
        rest.text()
        assert result.tokens + rest.result.tokens == tokens
        assert rest.result.state.data.tobytes() == whole[-4]


class Clock:
    """A clock that ticks when it is looked at."""

    perf_counter = staticmethod(time.perf_counter)
    time = staticmethod(time.time)

    def __init__(self, begin: float) -> None:
        self.now = begin - 1

    def monotonic(self) -> float:
        self.now += 1
        return float(self.now)


def real_guesses(lookup: bool, draft: Any, made: list[Guesses]) -> Any:
    """Return a maker of the real guesses, where chunks cost as much as single tokens."""

    def start(model: Any, walk: Any, *_: Any) -> Guesses:
        costs = FixedCosts()
        proposers: list[Any] = [Forced(walk.forced, VOCAB_SIZE)] if walk else []
        proposers += [Lookup()] if lookup else []
        proposers += [Draft(draft, costs, lambda: "")] if draft else []
        made.append(Guesses(proposers, costs))
        return made[-1]

    return start


def outcome_with(start: Any, make: Any) -> tuple[list[Any], Any]:
    """Return what a generation does, and its result, if `start` makes its guesses."""
    before = Generation.speculate
    Generation.speculate = staticmethod(start)
    try:
        generation = make()
        return outcome(generation), generation.result
    finally:
        Generation.speculate = staticmethod(before)


@given(MODELS, SAMPLERS, st.sampled_from(sorted(CONSTRAINTS)), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_the_real_guesses_change_no_bit(load, compiled, which, options, name, lookup, drafts):
    arch, dtype, form = which
    model = load(compiled, arch, dtype, 1, form)
    draft = load(compiled, "v4", "int8") if drafts or not lookup else None

    def make() -> Generation:
        return model.generate(
            "abc the abc the abc",
            sampler=Sampler(**options),
            max_tokens=20,
            constraint=CONSTRAINTS[name],
        )

    expected, _ = outcome_with(lambda *_: None, make)
    found, _ = outcome_with(real_guesses(lookup, draft, []), make)
    assert found == expected


def test_a_model_that_drafts_for_itself_is_always_right(load, compiled):
    model, greedy = load(compiled), Sampler(temperature=0, logit_bias={0: -math.inf})

    def make() -> Generation:
        return model.generate([3, 4], sampler=greedy, max_tokens=60)

    expected, _ = outcome_with(lambda *_: None, make)
    found, result = outcome_with(real_guesses(False, load(compiled), []), make)
    assert found == expected
    # Only a token that ends a document in the draft, which the sampler never takes, can be wrong.
    assert result.accepted == result.proposed >= 30


def test_a_draft_goes_on_where_not_all_that_it_proposed_was_read(load, compiled):
    """A deadline cuts chunks short."""

    def start() -> Draft:
        return Draft(load(compiled), Costs(), lambda: "")

    draft, text = start(), [0, 3, 4]
    draft.hear(text)
    proposed = draft.propose(7)
    assert len(proposed) > 3
    for token in proposed[:3]:
        draft.choose(token)
        draft.propose(3)
    draft.choose(9)
    other = start()
    other.hear([*text, *proposed[:3], 9])
    assert draft.propose(7) == other.propose(7)


def test_text_that_repeats_is_looked_up(load, compiled):
    class Told(Sampler):
        def sample(self, logits: np.ndarray) -> tuple[int, float]:
            token, logprob = 10 + self.count % 7, super().sample(logits)[1]
            self.count += 1
            return token, logprob

        count = 0

    def make() -> Generation:
        return load(compiled).generate([3], sampler=Told(temperature=0), max_tokens=70)

    expected, _ = outcome_with(lambda *_: None, make)
    found, result = outcome_with(real_guesses(True, None, []), make)
    assert found == expected
    assert result.accepted == result.proposed >= 50


def test_what_a_constraint_leaves_no_choice_about_is_read_at_once(load, compiled):
    spelled = "".join(VOCABULARY[token].decode() for token in (258, 263, 262) * 3)

    def make() -> Generation:
        return load(compiled).generate(
            [3], constraint=Choice([spelled]), sampler=Canonical(), max_tokens=60
        )

    expected, _ = outcome_with(lambda *_: None, make)
    found, result = outcome_with(real_guesses(False, None, []), make)
    assert found == expected
    # The first token is read to learn what one takes, and nobody reads the last one.
    assert result.text == spelled and result.accepted == result.proposed == 9 - 3


class Canonical(Sampler):
    """Chooses the longest token that is allowed, as the tokenizer does."""

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        allowed = np.flatnonzero(np.isfinite(logits))
        token = max(allowed, key=lambda token: len(VOCABULARY.get(int(token), b"")))
        return int(token), 0.0


def test_a_result_lasts_when_the_memory_of_its_chunk_is_used_again(load, compiled):
    model = load(compiled)
    told = Told([0, 3, *range(10, 30)], set(), [])
    sampler = Listed(list(range(10, 30)))
    generation = with_guesses(lambda: model.generate([3], sampler=sampler, max_tokens=20), told)
    generation.text()
    assert generation.result.accepted > 10
    other = Told([0, 4, *range(10, 30)], set(), [])
    sampler = Listed(list(range(10, 30)))
    with_guesses(lambda: model.generate([4], sampler=sampler, max_tokens=20), other).text()
    state = model.forward([0, 3, *range(10, 30)])[1]
    assert generation.result.state.data.tobytes() == state.data.tobytes()


def test_a_constraint_that_is_interrupted_in_a_chunk_leaves_a_state_that_lasts(load, compiled):
    class Walk:
        stopped: Any = None

        def mask(self, logits: np.ndarray, exact: Any) -> None:
            if self.stopped():
                raise module.InterruptionError

        def advance(self, token: int) -> bool:
            return True

    class Free:
        def start(self, model: Any) -> Walk:
            return Walk()

    class Cancels(Told):
        def choose(self, token: int) -> None:
            super().choose(token)
            if token == 15:
                generation.cancel()  # just before its state is taken from those read ahead

    model = load(compiled)
    text, results = list(range(10, 30)), []
    for first, guesses in (
        (3, Cancels([0, 3, *text], set(), [])),
        (4, Told([0, 4, *text], set(), [])),
    ):
        generation = with_guesses(
            lambda first=first: model.generate(
                [first], sampler=Listed(text[:]), constraint=Free(), max_tokens=20
            ),
            guesses,
        )
        generation.text()
        results.append(generation.result)
    result = results[0]  # the other one has used the same memory since
    assert (result.stop_reason, result.tokens, result.unread) == ("cancelled", text[:6], [15])
    expected = model.forward([0, 3, *text[:5]])[1]
    assert expected.data.tobytes() == result.state.data.tobytes()


class Listed(Sampler):
    """Chooses the tokens of a list."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(temperature=0)
        self.tokens = tokens

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        return self.tokens.pop(0), 0.0


def test_other_threads_can_cancel_while_tokens_are_read_ahead(load, compiled):
    model = load(compiled)
    text = [0, 3, *np.random.default_rng(0).integers(5, 200, 5000).tolist()]
    generation = with_guesses(
        lambda: model.generate([3], sampler=Listed(text[2:]), max_tokens=5000),
        Told(text, set(), []),
    )
    timer = threading.Timer(0.02, generation.cancel)
    timer.start()
    generation.text()
    timer.join()
    result = generation.result
    read = text[: result.state.tokens]
    assert read + result.unread == text[: 2 + len(result.tokens)]
    assert model.forward(read)[1].data.tobytes() == result.state.data.tobytes()


def test_a_limit_on_what_is_resident_holds(tiny, compiled, linux):
    path = tiny("v7", "int8")
    model = tinyrwkv.load(path, backend=compiled, resident_limit=10**7)
    free = tinyrwkv.load(path, backend=compiled)
    sampler = Sampler(seed=1)

    def make(model: Any) -> Generation:
        return model.generate([3, 258], sampler=sampler, max_tokens=20)

    plain = with_guesses(lambda: make(free), None)
    expected = outcome(plain)
    told = Told([0, 3, 258, *plain.result.tokens], set(), [])
    assert outcome(with_guesses(lambda: make(model), told)) == expected
    assert model.resident() <= 10**7


def test_generations_that_nobody_ends_take_little_memory(tiny, compiled):
    """Python's garbage collector may come late."""
    model = tinyrwkv.load(tiny(), backend=compiled)
    text = list(range(10, 40))
    left = []
    for _ in range(3 * MOST_CHUNKS):
        told = Told([0, 3, *text], set(), [])
        generation = with_guesses(
            lambda: model.generate([3], sampler=Listed(text[:]), max_tokens=30), told
        )
        for _ in range(20):
            next(generation)
        left.append(generation)
    assert [bool(one.result.accepted) for one in left].count(True) == MOST_CHUNKS
    assert left[-1].result.tokens == left[0].result.tokens
    assert left[-1].result.state.data.tobytes() == left[0].result.state.data.tobytes()
    for one in left:
        one.cancel()
        one.text()
    assert len(model.reader.chunks) == MOST_CHUNKS


# Options.


def test_the_numpy_backend_reads_nothing_ahead(load):
    """Its chunks are not exact."""
    assert not is_exact("numpy")
    generation = load("numpy").generate([5, 6] * 20, max_tokens=10, sampler=Sampler(seed=1))
    generation.text()
    assert generation.result.proposed == 0


@pytest.mark.parametrize(
    "tokens", [[VOCAB_SIZE], [-1], [10**30], [1.5], [True], [5] * 200, None, "ab", 5]
)
def test_a_constraint_that_forces_no_tokens_is_refused(load, compiled, tokens):
    class Walk:
        def mask(self, logits: np.ndarray, exact: Any) -> None:
            pass

        def advance(self, token: int) -> bool:
            return True

        def forced(self, most: int) -> Any:
            return tokens

    class Free:
        def start(self, model: Any) -> Walk:
            return Walk()

    sampler = Sampler(seed=1)  # it draws no end of the text before the walk is asked
    generation = load(compiled).generate([3], constraint=Free(), sampler=sampler)
    with pytest.raises(ArgumentError, match="forced"):
        generation.text()
    Walk.forced = "no method"
    load(compiled).generate([3], constraint=Free()).text()


def test_a_draft_must_have_the_same_vocabulary(load, tiny, tmp_path, compiled):
    model = load(compiled)
    small = write_model(tmp_path / "small.trwkv", shape_of("v7", vocab=200), "int8")
    words = rewrite(
        tiny("v7", "int8"),
        tmp_path / "words.trwkv",
        lambda _, tensors: tensors.update(tokenizer_tensors({**VOCABULARY, 257: b"zz"})),
    )
    for path in (small, words):
        for call in (
            lambda path=path: model.generate([3], draft=tinyrwkv.load(path)),
            lambda path=path: tinyrwkv.load(tiny("v7", "int8"), draft=path),
        ):
            with pytest.raises(ArgumentError, match="their vocabularies differ"):
                call()
    for odd in (3, "small.trwkv", tinyrwkv.Model):
        with pytest.raises(ArgumentError, match="draft"):
            model.generate([3], draft=odd)
    with pytest.raises(ArgumentError, match="lookup"):
        model.generate([3], lookup="yes")


def test_a_model_can_be_loaded_with_a_draft(tiny, compiled):
    with tinyrwkv.load(tiny("v7"), backend=compiled, draft=tiny("v4")) as model:
        draft = model.draft
        assert draft.backend.name == compiled and draft.config["arch"] == "v4"
        found = outcome(model.generate([3], sampler=Sampler(seed=2), max_tokens=20))
        other = tinyrwkv.load(tiny("v7"), backend=compiled)
        expected = other.generate([3], sampler=Sampler(seed=2), max_tokens=20, lookup=False)
        assert found == outcome(expected)
    with pytest.raises(ArgumentError, match="closed"):
        draft.forward([1])


def test_a_model_that_has_itself_as_its_draft_can_be_closed(tiny):
    first, second = (tinyrwkv.load(tiny()) for _ in range(2))
    first.draft, second.draft = second, first
    alone = tinyrwkv.load(tiny())
    alone.draft = alone
    for model in (first, alone):
        model.generate([3], max_tokens=5).text()
        model.close()
    with pytest.raises(ArgumentError, match="closed"):
        second.forward([1])


def test_a_copy_has_a_draft_that_is_copied(tiny):
    """Its file too may be cut off in place."""
    with tinyrwkv.load(tiny(), copy=True, draft=tiny("v4")) as model:
        assert model.file.copied and model.draft.file.copied


# What guesses.


def longest_match(text: list[int]) -> tuple[int, int]:
    """Return the most tokens at the end of a text that stand in it before, up to a number."""
    best = 0, 0
    for place in range(1, len(text)):
        length = 0
        while length < min(LONGEST, place) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        best = max(best, (length, place))
    return best


@given(st.lists(st.integers(0, 2), max_size=60))
@settings(max_examples=100)
def test_a_lookup_finds_what_followed_a_longest_match(text):
    lookup = Lookup()
    for n, token in enumerate(text, 1):
        lookup.hear([token])
        guess = lookup.propose(1)
        length, _ = longest_match(text[:n])
        assert bool(guess) == bool(lookup.chance) and (not guess or length >= GRAM)
        if guess:  # it followed the last tokens somewhere
            last = text[n - GRAM : n]
            places = [i for i in range(GRAM, n) if text[i - GRAM : i] == last]
            assert guess[0] in {text[i] for i in places}


def test_a_lookup_takes_the_longest_match_and_then_the_last():
    text = [1, 2, 3, 4, 50, 9, 2, 3, 4, 60, 8, 1, 2, 3, 4]
    lookup = Lookup()
    lookup.hear(text)
    assert lookup.propose(3) == [50, 9, 2]
    lookup = Lookup()
    lookup.hear([2, 3, 4, 5, 2, 3, 4, 6, 2, 3, 4])
    assert lookup.propose(1) == [6]


def test_a_lookup_goes_on_with_a_text_that_repeats():
    lookup = Lookup()
    lookup.hear([1, 2, 3, 1, 2, 3])
    assert lookup.propose(7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_lookup_forgets_what_is_too_long_ago():
    rng = np.random.default_rng(1)
    begin = [70_001, 70_002, 70_003, 70_004]
    for count, known in ((WINDOW // 2, True), (WINDOW - 3, False), (3 * WINDOW, False)):
        lookup = Lookup()
        lookup.hear(begin)
        lookup.hear(rng.integers(0, 60_000, count).tolist())
        lookup.hear(begin[:3])
        assert lookup.propose(1) == ([70_004] if known else [])


def test_a_lookup_does_little_work_for_any_text():
    """Texts whose tokens all stand in it before take as long for each token as others."""
    reads = []
    for text in ([7] * 4000, [7, 8] * 2000, np.random.default_rng(0).integers(0, 3, 4000).tolist()):
        lookup = Counted()
        lookup.hear(text)
        reads.append(lookup.looks / len(text))
    assert max(reads) < 8 * 2 * (LONGEST + 1) + 8


class Counted(Lookup):
    looks = 0

    def _at(self, place: int) -> int:
        self.looks += 1
        return super()._at(place)


def test_the_number_of_tokens_to_propose_pays():
    costs = Costs()
    assert costs.worth(1.0, 7) == 0  # nothing was measured yet
    costs.learn(1, 0.010)
    assert costs.worth(0.0, 7) == 0
    assert costs.worth(1.0, 7) == 7 and costs.worth(1.0, 3) == 3
    assert costs.worth(0.05, 7) == 0
    assert 0 < costs.worth(0.6, 7) < 7
    assert costs.worth(0.9, 7, each=2.0) == 0  # a slow draft
    for _ in range(20):
        for size in range(2, 9):
            costs.learn(size, 0.010 * size)  # no faster than one by one
    assert costs.worth(1.0, 7) == 0
    for _ in range(20):
        costs.learn(4, 0.015)
    assert costs.worth(0.95, 7) == 3
    for _ in range(8000):
        costs.learn(1, 0.010)
    assert costs.worth(0.95, 7) == 7  # what was too slow is tried again some time


def test_one_slow_measurement_changes_little():
    costs = Costs()
    costs.learn(1, 0.010)
    costs.learn(8, 0.016)
    costs.learn(8, 5.0)
    assert costs.relative()[8] < 2.0
    costs.learn(1, 5.0)
    assert 0.010 < costs.of_one < 0.012


def test_a_chance_follows_what_comes_true_and_comes_back():
    chance = Chance(0.8)
    chance.judge(7, 7)
    assert chance.value > 0.9
    for _ in range(20):
        chance.judge(3, 0)
    low = chance.value
    assert low < 0.1
    for _ in range(200):
        chance.come_back()
    assert low < 0.4 < chance.value < 0.8
