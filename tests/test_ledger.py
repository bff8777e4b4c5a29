"""The chain of events, whatever it looks like and whatever is done to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_ext.core import InvalidRequest, digest
from deploy_ext.ledger import (
    PARENTS,
    ROOM,
    Entry,
    causal,
    disagreements,
    entry,
    faults,
    heads,
    last,
    remember,
    unique,
    write,
)
from deploy_ext.records import Event

START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("register", "validate", "promote", "rollback", "up")


@st.composite
def chains(draw: st.DrawFn, least: int = 1) -> list[Entry]:
    """Up to 25 events whose writers saw any part of what there was, with clocks that are hours apart."""
    chain: list[Entry] = []
    for n in range(draw(st.integers(least, 25))):
        seen = [e for e in chain if draw(st.booleans())]
        when = START + timedelta(minutes=draw(st.integers(-300, 300)))
        what = draw(st.sampled_from(KINDS))
        chain.append(entry(Event(what, "flights", to=str(n), who="ada", when=when, parents=heads(seen)), f"run{n}"))
    return chain


def ancestors(chain: list[Entry], of: Entry) -> set[str]:
    """Digests of everything that `of` has seen, directly or not."""
    by_digest, found, todo = {e.digest: e for e in chain}, set(), list(of.parents)
    while todo:
        if (d := todo.pop()) not in found:
            found.add(d)
            todo += by_digest[d].parents
    return found


@given(chains(), st.randoms())
def test_a_whole_chain_has_no_faults_in_any_order_of_reading(chain: list[Entry], dice) -> None:
    shuffled = dice.sample(chain, len(chain))
    assert faults("flights", shuffled, remembered=heads(chain)) == []
    assert heads(shuffled) == heads(chain)
    assert causal(shuffled) == causal(chain)


@given(chains())
def test_causes_come_before_effects(chain: list[Entry]) -> None:
    order = causal(chain)
    place = {e.digest: n for n, e in enumerate(order)}
    assert len(order) == len(chain)
    assert all(place[p] < place[e.digest] for e in order for p in e.parents)


@given(chains(least=2), st.data())
def test_what_is_removed_is_named(chain: list[Entry], data: st.DataObject) -> None:
    victims = data.draw(st.lists(st.sampled_from(chain), min_size=1, unique_by=lambda e: e.digest))
    rest = [e for e in chain if e not in victims]
    told = faults("flights", rest, remembered=heads(chain))
    named = {p for e in rest for p in e.parents} | {*heads(chain)}
    for victim in victims:
        if victim.digest in named:  # otherwise all that knew of it was removed with it, and that is named
            assert any(f"event {victim.digest[:10]} was removed" in line for line in told)
    assert told


@given(chains(), st.data())
def test_what_is_altered_is_named(chain: list[Entry], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(chain))
    how = data.draw(st.sampled_from(["who", "cut", "empty", "recorded", "both"]))
    texts = {"who": victim.text.replace("ada", "eve"), "cut": victim.text[:-2], "empty": ""}
    forged = replace(victim, text=texts.get(how, victim.text))
    if how == "recorded":
        forged = replace(victim, digest=digest("x"))
    if how == "both":
        text = victim.text.replace("ada", "eve")
        forged = replace(victim, text=text, digest=digest(text))
    told = faults("flights", [forged if e is victim else e for e in chain], remembered=heads(chain))
    assert any(victim.digest[:10] in line or f"run {victim.place}" in line for line in told)
    causal([forged if e is victim else e for e in chain])


@given(chains(), st.data())
def test_a_deleted_event_is_named_with_the_run_to_restore(chain: list[Entry], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(chain))
    told = faults("flights", [replace(e, deleted=True) if e is victim else e for e in chain])
    assert told == [f"{victim} is in the bin: restore run {victim.place} in MLflow."]


@given(chains())
def test_a_retried_write_counts_once(chain: list[Entry]) -> None:
    twice = chain + [replace(e, place=f"{e.place}-again") for e in chain]
    assert faults("flights", twice) == []
    assert len(causal(twice)) == len(chain)
    assert unique([replace(chain[0], text=""), chain[0]]) == [chain[0]]


@given(chains())
def test_last_are_the_moves_that_no_later_move_has_seen(chain: list[Entry]) -> None:
    moves = [e for e in chain if e.event and e.event.what in ("promote", "rollback")]
    seen = {d for e in moves for d in ancestors(chain, e)}
    assert {e.digest for e in moves if e.digest not in seen} == {e.digest for e in last(chain)}


@given(chains(least=2))
def test_what_was_cut_off_stays_told(chain: list[Entry]) -> None:
    memory = heads(chain)
    cut = [e for e in chain if e.digest != memory[0]]
    once = remember(memory, cut)
    later = [*cut, entry(Event("up", "flights", parents=heads(cut)))]
    assert any(memory[0][:10] in line for line in faults("flights", later, remember(once, later)))


def test_a_circle_is_read_in_time_order() -> None:
    """It cannot be written, since a digest would have to contain itself; a forger can still record one."""
    a, b = Event("up", "flights", when=START), Event("down", "flights", when=START + timedelta(hours=1))
    forged = [Entry(write(replace(a, parents=("B",))), "A"), Entry(write(replace(b, parents=("A",))), "B")]
    assert [e.digest for e in causal(forged)] == ["A", "B"]
    assert len(faults("flights", forged)) == 2


def test_a_foreign_event_is_named() -> None:
    assert "is about trains, not flights" in faults("flights", [entry(Event("up", "trains"))])[0]


@pytest.mark.parametrize("letter", ["x", '"', "é", "\n", "\x00", "\U0001f600"])
def test_a_reason_fits_whole_or_is_refused(letter: str) -> None:
    """JSON writes some characters longer than they are; what counts is what MLflow stores."""
    parents = tuple(digest(str(n)) for n in range(PARENTS))
    for length in (1, ROOM // 8, ROOM // 2, ROOM, 2 * ROOM):
        event = Event("promote", "flights", reason=letter * length, parents=parents)
        try:
            assert len(write(event)) <= 8000
        except InvalidRequest as e:
            assert "Shorten" in str(e)


def test_a_future_event_with_more_fields_keeps_its_digest() -> None:
    text = write(Event("up", "flights")).replace('"what"', '"weather":"fog","what"')
    future = Entry(text, digest(text))
    child = entry(Event("down", "flights", parents=(future.digest,)))
    assert faults("flights", [future, child]) == []
    assert [e.event.what for e in causal([child, future]) if e.event] == ["up", "down"]


def test_concurrent_moves_may_both_be_right() -> None:
    root = entry(Event("register", "flights", to="1"))
    other = entry(Event("register", "flights", to="2", parents=(root.digest,)))
    fork = [entry(Event("promote", "flights", to=to, parents=(other.digest,))) for to in "12"]
    for champion in (1, 2):
        assert disagreements([root, other, *fork], [1, 2], champion, {}) == []
    assert "the ledger says" in disagreements([root, other, *fork], [1, 2], None, {})[0]
