"""The English words that the guard knows, in tables: what means what, and why it is listed.

Apostrophes are dropped, as in `words.tokens`. A word that is missing in the tables of negations,
corrections, conditions and open quantities lets a wrong script pass, so these are generous. A word
that is missing elsewhere costs a question.
"""

from __future__ import annotations

from itertools import product


def words_of_text(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.replace("'", "").split())


def phrases_of(text: str) -> tuple[str, ...]:
    """Return the phrases of a text that has commas or new lines between them."""
    return tuple(
        " ".join(phrase.split())
        for phrase in text.replace("'", "").replace("\n", ",").split(",")
        if phrase.strip()
    )


def _combined(*rows: str) -> tuple[str, ...]:
    """Return every combination of one phrase of each row; "-" stands for no word."""
    parts = [phrases_of(row) for row in rows]
    return tuple(
        " ".join(word for word in combination if word != "-") for combination in product(*parts)
    )


# ---- what is not wished ----

NEGATIONS = (
    # What follows, to the end of the clause, is not wished.
    *phrases_of("""
        not, never, without, nor, neither, none, nothing, nobody, nowhere, cannot, nt, don t
        don't, doesn't, didn't, won't, can't, isn't, aren't, wasn't, weren't, shouldn't, mustn't
        needn't
        couldn't, wouldn't, haven't, hasn't, hadn't, ain't, dnt, avoid, avoiding, except
        excluding, besides, skip, skipping, omit, refrain, ignore, keep away, stay away, keep off
        stay off, keep clear, stay clear, steer clear, hands off, gripper off, fingers off
        instead of, rather than, in place of, other than, but not, anything but, any direction but
        far from, least of all, let alone, by no means, no more, no longer, no need, under no
        cease, undo, hold off, put off, call off, refuse to, think twice, i doubt, doubtful
        i hate, i'd hate, i would hate, the last thing i, forbid, forbids, forbidden, prohibited
        i object to, do knot, avert
        cancel going, cancel turning, cancel moving, cancel the, cancel your, cancel my
    """),
    *_combined("donut, doughnut", "turn, go, move, open, close, take, drop, follow, pick, bring"),
)

SLIPPING = words_of_text("""
    not never without don't cannot won't can't mustn't shouldn't didn't doesn't neither except avoid
    unless until when while whenever whether provided if once
""")
"""Typing mistakes in these are mended before anything is read."""

POSITIVE_AGAIN = words_of_text("but just instead only rather simply however")
"""Words that end a negation: "not left BUT right"."""

CORRECTIONS = (
    # What follows takes the place of what was said before.
    phrases_of("""
        no wait, wait no, no no, nope, nah, i mean, i meant, i mean to say, sorry, actually, oops
        whoops, scratch that, strike that, scrap that, sod it, make that, make it, correction
        on second thought, on second thoughts, second thought, on reflection, come to think of it
        never mind, nevermind, forget that, forget it, forget what, cancel that, cancel, abort
        change of plan, changed my mind, or rather, rather, or no, or better, better still
        instead, my bad, my mistake, i was wrong, i misspoke, i take that back, let me rephrase
        i should say, wait, hang on, hold on, uh no, in fact, ignore that, disregard
        disregard that, excuse me, apologies, pardon, let's say, not that, not that one
    """)
)

EXCUSES = words_of_text("""
    wrong way don't um uh er erm oops sorry actually mean well better hmm hm
""")
"""Between a correction and what takes the place, these say nothing."""

ALONE = frozenset(("wait", "hang on", "hold on"))
"""Corrections that are orders too: only between pauses do they take something back."""

# ---- what only sounds like a negation or a condition ----

COURTESY = (
    *phrases_of("""
        if you please, if you would, if you will, if you could, if you can, if you may
        if you like, if you want, if you don't mind, if you do not mind, if you wouldn't mind
        if possible, if i may, if i may ask, if i could ask you to, if i asked you to
        if it pleases you, if you're able, if you're not too busy, if you're not busy
        if you're free
        if that works, if you know what's good for you, what if you
        how about if you, do you mind if i ask, it would help if you, love it if you
        appreciate it if you, appreciate it if you could, be happy if you, be glad if you
        be grateful if you could, how would it be if you, or two, if at all possible, if need be
        when you can, when you're ready, when you are ready, when convenient
        whenever you like, should you have the time, provided you don't mind, as soon as possible
        as soon as you can, while you're at it, while you are at it, why don't you, why not
        why haven't you, why aren't you, isn't it time you, would you not mind, wouldn't you
        couldn't you, won't you, can't you, could you not just, wouldn't it be nice if i had
        it wouldn't hurt you to, don't be shy and, don't hesitate to, don't miss the chance to
        don't forget, don't forget to, don't forget that, do not forget, do not forget to
        don't worry
        do not worry, don't mind me, don't mind, don't panic, don't be cross with me but
        don't be cross with me, not to worry, not bad, not at all, no problem, no rush, no hurry
        no need to hurry, no need to rush, no worries, no doubt, no shouting just, no shouting
        no big deal, no pressure, no kidding, not kidding, no offence, all right, alright
        that's right, just now, i suppose, any chance of, any chance i, hoping you might
        any chance you could, do me a favour
        do me a favor, me a favour, me a favor, a bit of a favour, a small favour, need someone to
        someone to, somebody to, some help, sorry to bother you, sorry but, whatever happens
        whatever you do, two things, three things, go ahead and, come on, i say, as i said, i said
        had better, id better, you'd better, as well, at last, at once, put your, put yourself
        excuse me but, do nothing, you look, you seem, you couldn't, you wouldn't mind
        i don't suppose, id rather you, would rather, you wouldn't happen to, you don't happen to
        i'll explain later, i will explain later, i'll tell you later, i'll tell you why later
    """),
    # These only point at what is held, or at who is followed.
    *_combined(
        "whatever", "you've got, you have, you've got there, you're holding, you are holding"
    ),
    *_combined(
        "wherever", "i, he, she, it, they", "go, goes, walk, walks, wander, wanders, run, runs"
    ),
    *_combined(
        "if, when, whenever, once, as soon as",
        "you have, you've, you've got, you have got, you get, you find, you can spare",
        "a, the, -",
        "minute, moment, second, sec, chance, time, opportunity",
    ),
    *_combined(
        "if, provided, as long as",
        "it's, it is, that's, that is, it isn't, it's not, it is not, that isn't",
        "-, too, all, not too",
        """ok, okay, fine, alright, right, possible, convenient, no trouble, no bother, a bother
        much trouble, much bother, much to ask, a problem, no problem, trouble, inconvenient
        much of an imposition, difficult, an imposition""",
        "-, with you, by you, for you",
    ),
    *_combined("maybe, perhaps", "you could, you can, you would, you might"),
    *_combined(
        "be, id be, would be, it's, it",
        "good, nice, great, lovely, kind, helpful, wonderful, brilliant, grateful, better",
        "-, of you",
        "if you, if you'd, if you could, if you would",
    ),
    *_combined(
        "if you, if you'd",
        "be, would be, could be, were",
        "so, that, very",
        "good, kind",
        "-, as to",
    ),
    *_combined(
        "wonder, wondering, wondered, ask, see",
        "if",
        "you, you'd",
        "-, could, would, can, might, mind",
    ),
)

SEQUENCE = (
    # These say only what comes next.
    *_combined(
        "once, when, as soon as, after",
        "that's, that is, this is, it's, you're, you are, you've, you have, -",
        "done, finished, complete, there, over, done that, finished that, done this, arrived",
    ),
    *_combined("once, when, as soon as", "you", "get there, arrive, finish, reach it, are done"),
    *phrases_of("""
        after that, after this, after which, following that, followed by, and then, last of all
        to finish, first of all, first off, first up, first thing, to begin with, to start with
        to start, for starters, later on, that done, having done that, before that
    """),
    *_combined("before", "-, you do, doing", "anything else, anything, everything else"),
)

ARRIVALS = (
    # "Once you get to the door" says the same as "after you go to the door".
    *_combined(
        "once, when, as soon as, after",
        "you, you've, you have, you're, you are",
        "get to, got to, reach, reached, arrive at, arrive in, arrived at, arrived in, at, in",
    ),
)

# ---- what no script can say ----

CONDITIONS = (
    # It depends on something, or is to happen at another time.
    phrases_of("""
        if, unless, until, till, whenever, when, as soon as, as long as, so long as, in case
        provided, providing, supposing, suppose, assuming, whether, otherwise, or else, while
        lest, depending, in the event, on condition, only once, wherever, every time, by the time
        once the, once i, once he, once she, once they, once it, once we, once you, once it's
        once my, once you're, once you've, once they're, once there, once a, should the, should it
        should he, should she, should they, should there, should you, should i, should we
        should any, were to, had the, the moment, the minute, the instant, before it, before they
        before he, before she, before i, before we, stop before, stop short, halt before
        halt short, noon, midnight, midday, tomorrow, tonight
        yesterday, this morning, this evening, this afternoon, in the morning, in the evening
        in the afternoon, at night, at dawn, at dusk, at sunset, at sunrise, at lunch, at dinner
        at breakfast, at teatime, half past, quarter past, quarter to, after lunch, after dinner
        after breakfast, after work, after dark, weekend, monday, tuesday, wednesday, thursday
        friday, saturday, sunday, next week, next month, next time, next year, later, eventually
        someday, sometime, in future, in the future, from then on, from now, ago, not yet, every
        each, daily, hourly, weekly, nightly, always, forever, constantly, repeatedly
        again and again, all the time, all day, all night, now and then, as needed, during
        meanwhile, at the same time, simultaneously, might, maybe, perhaps, perchance, possibly
    """)
)

OPEN = (
    # How much, or which, is left open.
    *_combined("metres, meters, m, cm, feet, degrees, seconds", "max, maximum, minimum"),
    *phrases_of("""
        a bit, a little bit, little bit, a tad, a touch, a smidge, a smidgen, a hair, slightly
        somewhat, a while, awhile, a few, few, several, some, a couple, couple, a lot, lots
        a handful, plenty, many, so much, too much, a pile, a number of, ages, a jiffy, briefly
        at least, at most, up to, more than, less than, no more than, more or less, or thereabouts
        somewhere, anything, anywhere, anyone, any, whatever, whichever, whoever, as far as
        as much as, as many as, as fast as, far enough, enough of, halfway to, halfway up
        halfway down, half way to, partway
        part way, steps, paces, strides, or, either, most of, the rest, all of, all the, both
        a little further, a little more, a little to, a little left, a little right
        a little forward, a little back, a little closer, a little way, a little while
        just a little, a fraction, a short way, a short distance, a long way, a good way
        a ways, nearly, almost, just under, just over, well under, well over, tops, give or take
        at the most, at the least, no further than, barely, some more, the other one, random
        randomly
    """),
)

TAKEN_BACK = phrases_of("""
    i mean, i meant, forget it, forget that, forget about it, never mind, nevermind, scratch that
    strike that, scrap that, cancel, cancel that, cancel it, abort, just kidding, kidding, jk
    joking, only joking, just joking, not, don't, do not, never, no, nope, nah, oops, whoops
    changed my mind, changed my mind about that, i take that back, my bad, my mistake, hang on
    hold on, ignore that, disregard that, disregard, not that, on second thought
    on second thoughts, ignore me, false alarm, no need, not needed, not necessary
""")
"""At the end of an order, these take it back."""

TOLD_OF = (
    *phrases_of("""
    imagine, imagine you, pretend, pretend to, pretend you, who told you, who said, who asked you
    did i tell you, did i ask you, did i say, would you ever, could you ever, will you ever
    did you, did you ever, have you ever, do you ever, are you ever, are you going to
    are you about to, what would happen, what happens
    """),
    *_combined("afraid, a pity, glad, sad, surprised", "you, that you, you'd, you'll, you will"),
    *_combined(
        "let me, let him, let her, let us, let them, watch me, watch him, watch her, why",
        "go, turn, move, drive, walk, open, close, take, follow, pick, put, bring",
    ),
)
"""These speak about an order and give none."""

JUDGED = (
    *_combined(
        "is, was, be, its, are, seems, sounds, looks",
        "-, a, so, very, really, just, such a",
        """wrong, silly, stupid, foolish, mistake, crazy, mad, dumb, pointless, useless, unwise
        banned, illegal, rude, bad idea, terrible idea""",
    ),
    *_combined(
        "is, was, be, its",
        "-, too, so, very, really, not",
        "unsafe, dangerous, risky, safe, early, late, far",
        "to, for you to",
    ),
    *phrases_of("bad idea, terrible idea, stupid idea"),
)
"""Who says these of an order does not give it."""

LIMITED = (
    *_combined("not, except, but, other than", "the one, the ones, those"),
    *_combined("not, but not", "too", "close, near, far, high, low, hard, much, many, deep"),
)
"""These limit what is wished, and no script can say it."""

VAGUE = words_of_text("""
    ti on somewhere anywhere nowhere everything nothing everyone something anything
    someone somebody anyone some any it them things stuff few
""")
"""A name with one of these names nothing."""

OTHER = frozenset(("other", "wrong", "opposite"))
"""Before a name or a side, these mean another one than that."""

ORDINALS = frozenset(("second", "third", "fourth", "fifth", "2nd", "3rd", "4th"))
"""A side after one of these is a way out of several."""

ELSEWHERE = words_of_text("past behind between beyond under underneath around round above below")
"""What is there is not at the place that is named."""

STAY = (
    *_combined("stay, remain", "here, put, where you are"),
    *_combined("stand, keep, stay", "still"),
)
"""These ask for standing still, and not for a way."""

# ---- directions ----

LEFT = words_of_text("""
    left leftward leftwards lefthand lefts lefty leftie port sinister widdershins counterclockwise
    anticlockwise ccw acw
""")
RIGHT = words_of_text("""
    right rightward rightwards righthand rights righty starboard clockwise cw
""")
BACK = words_of_text("""
    back backward backwards backing backup reverse reversing retreat rear rearward rearwards behind
    astern aft sternway withdraw retrace retire recede pull
""")
BACKWARD = words_of_text("""
    back backward backwards sternway rearward rearwards retrace reverse reversing backing retreat
    withdraw astern
""")
"""Of these, those that mean nothing else."""
FORWARD = words_of_text("""
    forward forwards fwd ahead straight forth onward onwards advance front nearer closer
    close approach further
""")
AHEAD = words_of_text("forward forwards fwd ahead onward onwards advance")
"""Of these, those that mean nothing else."""
AROUND = words_of_text("""
    around round about full circle whole complete spin twirl pirouette lap revolution rotation face
    facing other opposite behind reverse heel back uturn u ends
""")

FULL = words_of_text("lap laps circle circles revolution full whole complete pirouette twirl")
"""With one of these, a turn to a side is not the quarter that it is without a number."""

MOTION = AHEAD | BACKWARD | words_of_text("move drive walk run roll travel go rotate turn spin")
"""For a time after one of these, the robot is not to wait."""

RETURNING = words_of_text("to in into on onto here inside home with from at by through and _")
""""Back" before one of these is the way to a place, and not backward."""

TURNING_VERBS = words_of_text("""
    turn turning rotate rotating spin swivel pivot twist face swing veer hang take make do go ease
    bear swerve wheel yaw
""")
"""Without one of these, "left" after "look" is where to look."""

TURNING = words_of_text("""
    turn rotate spin pivot swivel look face swing veer go the your my twist camera
""")
"""After one of these, "right now" means a direction."""

# ---- what calls mean ----

EVIDENCE = {
    # A call is believed only if the order has one of it's words.
    "photo": words_of_text("""
        photo photos photograph photographs picture pictures pic pics snap snaps
        snapshot snapshots shot shots shoot capture image images camera selfie portrait film cheese
    """),
    "dock": words_of_text("""
        dock docked charge charger charging recharge recharging power base station plug cradle
        pad home juice electrons battery batteries refuel socket mains
    """),
    "gripper": words_of_text("""
        grip gripper grippers hand hands claw claws finger fingers jaw jaws pincer pincers clamp
        clamps fist grasp unclench clench open close closed shut squeeze
    """),
    "wait": words_of_text("""
        wait waiting pause pausing hang hold stay rest delay idle break nap sleep still count
        second seconds sec secs s minute minutes min mins hour hours hr hrs h
    """),
    "stop": words_of_text("""
        stop stopping halt freeze whoa still stay staying motionless stationary brake brakes
        anchors stand cease desist abort quit enough hold park remain knock off leave cancel
    """),
    "follow": words_of_text("""
        follow followed follows following after behind tail chase shadow
        accompany along with trail escort stick heel heels pursue track sight come stay close
    """),
    "release": words_of_text("""
        release let drop put down give bring take deliver leave loose loosen free dump lay
        set place fetch carry get pass ungrip unhand relinquish off return
    """),
    "turn": words_of_text("""
        turn turned turning turns rotate rotation spin swivel pivot twist face swing veer
        yaw whirl round around about left right lefts rights lefty righty clockwise
        counterclockwise anticlockwise degrees degree eighty sixty circles spins laps revolutions
        circle lap revolution twirl
        pirouette heel back ends
    """),
}

REPORTS = {
    "battery": words_of_text("""
        battery batteries charge charged power juice energy percent
    """),
    "temperature": words_of_text("""
        temperature temp hot warm warmth cold heat thermometer cool degrees
    """),
    "position": words_of_text("""
        position location coordinates where where's whereabouts place lost located spot
    """),
    "distance": words_of_text("""
        distance far close near nearest range rangefinder clearance gap away room space obstacle
    """),
    "status": words_of_text("""
        status how how's ok okay fine state alright right feeling doing health wrong condition well
        working report systems diagnostics are
    """),
}

SPEEDS = {
    "slow": words_of_text("""
        slow slower slowly careful carefully gentle gently easy calm ease crawl creep snail brake
        hurry rush race down decelerate relax half low dawdle
    """),
    "fast": words_of_text("""
        fast faster quick quicker quickly hurry rush speed speedy full top maximum max pedal gas
        accelerate brisk step up rapid rapidly race haste high foot wind lightning
    """),
    "normal": words_of_text("""
        normal usual regular ordinary default standard medium always reset moderate average
        cruising back touring
    """),
}

LOOKS = {
    "left": words_of_text("left port leftward leftwards"),
    "right": words_of_text("right starboard rightward rightwards"),
    "up": words_of_text("""
        up upward upwards above ceiling sky overhead roof top heaven heavens stars
    """),
    "down": words_of_text("down downward downwards floor ground below beneath feet foot under"),
    "ahead": words_of_text("ahead forward forwards front straight middle centre center before"),
    "behind": words_of_text("behind back backward backwards rear"),
}

GRIPS = {
    "open": words_of_text("open opened unclench spread wide release let loose loosen ungrip"),
    "close": words_of_text("close closed shut clench squeeze grasp grip clamp fist"),
}

ARGUMENTS = {"report": REPORTS, "speed": SPEEDS, "look": LOOKS, "gripper": GRIPS}

HANDS = words_of_text("""
    hand hands gripper grippers grip claw claws finger fingers jaw jaws fist clamp clamps pincer
    pincers grasp it them up wide both
""")
"""Only these are opened and closed; a door is not."""

NEAR = words_of_text("""
    more how so too very awfully pretty quite really stay come get keep stays so
""")
"""After one of these, "close" means near."""

ABOUT_ITSELF = words_of_text("""
    you your you're you've yourself we u ya yer position location coordinates whereabouts status
    state report diagnostics
""")
"""Without one of these, "where" and "how" do not ask about the robot."""

TURNED = words_of_text("""
    other way whole full right left robot camera head body corner base opposite quarter half three
    two one sharp
""")
"""Turning one of these is turning the robot; turning a key is not."""

PAST = words_of_text("""
    picked took went turned moved dropped brought followed said opened closed drove placed grabbed
    fetched stopped waited looked carried
""")
"""After "you", these tell what has happened."""

STAYING = words_of_text("""
    step inch muscle move moving go budge proceed shift stir anywhere further stay staying put
    still remain stop
    halt freeze
""")
"""With or without a negation, these ask for stop(): "do not MOVE"."""

TRIGGERS = {
    # Each of these words calls for one of these calls.
    **dict.fromkeys(
        words_of_text("turn turns rotate spin swivel pivot twirl"), words_of_text("turn look goto")
    ),
    **dict.fromkeys(words_of_text("wait pause"), words_of_text("wait stop")),
    **dict.fromkeys(
        words_of_text("photo photograph picture snapshot selfie"), words_of_text("photo")
    ),
    **dict.fromkeys(words_of_text("dock recharge"), words_of_text("dock")),
    **dict.fromkeys(words_of_text("follow"), words_of_text("follow")),
    **dict.fromkeys(words_of_text("say announce shout"), words_of_text("say report")),
    **dict.fromkeys(words_of_text("gripper claw"), words_of_text("gripper release")),
    **dict.fromkeys(words_of_text("pick grab fetch"), words_of_text("pick")),
    **dict.fromkeys(
        words_of_text("put"), words_of_text("place release move speed goto turn stop wait")
    ),
    **dict.fromkeys(
        words_of_text("look glance peek"), words_of_text("look report photo goto turn")
    ),
    **dict.fromkeys(words_of_text("stop halt"), words_of_text("stop")),
    **dict.fromkeys(words_of_text("speed slower faster"), words_of_text("speed")),
    **dict.fromkeys(words_of_text("come"), words_of_text("goto follow move")),
    **dict.fromkeys(words_of_text("battery temperature"), words_of_text("report dock")),
    **dict.fromkeys(words_of_text("drop release"), words_of_text("release place")),
    **dict.fromkeys(words_of_text("return"), words_of_text("goto dock")),
}

JOINERS = words_of_text("then next afterwards finally lastly")
"""Each joins another wish to the one before."""

AGAIN = words_of_text("again more twice repeat another")
"""Without one of these, or a number, nothing is done twice."""

PUTTING = words_of_text("put place set lay stick needs belongs stand rest")
ONTO = words_of_text("in on into onto")
"""What is put in or on something is placed; what is taken to a place is let go there."""

SELF = words_of_text("""
    position plant install haul drag shift scoot hoist nudge point ready station make park plug
    find introduce help move navigate relocate orient align
""")
"""A robot does these to itself; for other verbs before "yourself" it has no call."""

TAKING = words_of_text("take touch pick grab move lift get fetch bring remove")
"""Whoever must not do one of these to "it" picks up nothing."""

TO_USER = phrases_of("""
    bring me, fetch me, get me, hand me, give me, pass me, bring us, fetch us, get us, hand us
    give us, bring it to me, bring it here, to me, over here
""")
"""Who takes something for these brings it to the speaker."""

USER = words_of_text("""
    me my mine i i'm id ill i've us our we ours here myself hither user come back return bring fetch
    get hand pass give let's want need speaker over this
""")
"""Words that may mean the speaker, for whom a script says "user"."""

# ---- words by what they are ----

ARTICLES = words_of_text("a an the this that these those my your his her our their")

ORDER_VERBS = words_of_text("""
    go come get bring take put pick fetch grab give hand move turn drive head carry place drop let
    say tell look follow wait pause stop halt freeze dock charge recharge rotate spin release open
    close photograph report set keep stay pass roll run walk travel proceed return deliver leave
    lift collect visit reverse speed slow show send do steer swivel pivot announce shout find
    advance swing hold transport lay snap
""")
"""A correction with one of these is an order of it's own."""

FUNCTION = ARTICLES | words_of_text("""
    some any to from in on onto into at by of for with off up down over under out and or then so
    please it it's them him me us you i we he she they is are was be been has have had do does did
    will would could can should shall may now here there just only also too very really which who
    whom whose what where when how why if as than but not no yes ok okay hey hi hello robot robbie
    bot one ones next first last second _said beside behind near inside upon via through past
    toward towards around about after before
""")
"""Words that are hardly ever part of the name of a thing or a place."""
