"""Words that are not meant as they stand: idioms, and things that nobody can carry.

A model that was taught to carry things takes "lift the ban" for an order to lift something.
"""

from __future__ import annotations

from .vocabulary import phrases_of, words_of_text

IDIOMS = phrases_of("""
    take it easy, take your time, take a seat, take a nap, take a break, take a hike, take turns
    take charge, take care, take notes, take part, take place, take off, take on, take over the
    hold your breath, hold your tongue, hold the line, keep an eye, keep an ear, keep your promise
    keep track, keep quiet, keep up the, turn the other cheek, turn a blind eye
    turn over a new leaf, turn into a, turn off, turn it on, turn it off, turn it up, turn it down
    turn up the, turn down the, turn on the light, turn on the lights, turn on the lamp
    turn on the tv, turn on the radio, turn on the heating, turn on the fan, turn on the oven
    switch on, switch off, break a leg, give me a break, give it a rest, give up, give me five
    get lost, get over it, get a life, get the picture, get a grip, get rid of, get ready
    go to hell, go to sleep, go to bed, go figure, go for it, go easy on, go easy, go crazy
    drop dead, drop the subject, drop the act, drop me a line, drop by, drop in on
    pull yourself together, pull my leg, pull over, look on the bright side, look after, look into
    look up the, look up a, look forward to, look for, look it up, picture yourself, picture this
    paint a picture, draw a picture, draw me a picture, pick up speed, pick up the pace
    pick up the pieces, pick up on, pick a number, pick a card, pick a side, follow suit
    follow up, say no more, say grace, say your prayers, beat it, call it a day, hit the road
    hit the hay, kick the bucket, spill the beans, come clean, come true, come of age, place a bet
    place an order, wait and see, wait on, stop by, back me up, back up the, back up my
    back up your, move out, charge my, charge the, charge his, charge her, charge him, charge them
    move in with, make up your mind, make a wish, make sense, bring up, bring about
    bring down the, set the table, set the alarm, set a timer, set an alarm, set off the
    lay the table, see what, see what's, see who, see who's, see if, see whether, see how, see why
    find out, figure out, check if, check whether, check on, make sure that, let me know
    ask whether, ask if
""")

UNREAL = words_of_text("""
    advice anger answer apology argument attention attitude ban bargain bet blame boil breath call
    cancer cause chance charge clue comfort confidence conscience consideration control
    conversation cost courage credit deal debt decision decree discussion doubt dream dreams duty
    energy evidence example excuse excuses eye fashion fault favor favour fever flight flu fun
    future gossip grudge guess gut habit heart hope hour idea illness inflation influence innocence
    instinct instincts interest internet joke joy judgement justice law level life limit limits
    logic luck mars mind minute mission moment mood moon mortgage motion music nap night noise odds
    offer opinion opportunity pain pardon past patience peace permission phase pity pressure price
    prices pride problem promise prompt protest question race rain rate rates reason request
    responsibility restrictions revenge reward rhythm risk rule rules rumor rumour sanctions score
    sense siege silence sky sleep speech spell spirit spirits standard standards strike subject
    suggestion sun suspense tax taxes temperature temperatures tempo theory thread time tone topic
    trend trial trouble truth vacation vengeance victory view voice volume vote wages war warmth
    wealth weather weekend weight wisdom wish year
""")
"""Nobody carries these, or drives there: "lift the BAN"."""

UNFOLLOWED = UNREAL | words_of_text("""
    account advice band book case channel club code course crowd diet direction directions fashion
    game guide guideline guidelines instruction instructions lead leads lesson list logic match
    method money movie news order orders path plan plot procedure procedures program programme
    protocol recipe regulations routine schedule script series show signs star stars steps story
    team teams tradition trends twitter youtube
""")
"""Nobody follows these by driving: "follow the NEWS"."""
