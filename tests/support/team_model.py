"""The protocol of csrc/threads/team.c as a machine of small steps, and an explorer of every order they can come in.

A caller makes some steps, one job each, with two threads of a team. Between any two of its operations on shared
memory each of the three may stop for as long as it likes, as the system has it. The explorer walks through all states
and says what is wrong with one of them: a piece done twice or never, a job that somebody sees after its end, a thread
that sleeps through a job that it was to be woken for, or a state from which the caller can no longer come to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

CALLER = 0
THREADS = (1, 2)


class WrongError(Exception):
    """A fault of a state that can be reached."""


@dataclass(frozen=True, slots=True)
class Word:
    """The word `state` of team.c; every job wants both threads."""

    inside: int = 0
    open: bool = False
    awaited: bool = False
    number: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Shared memory, and where each of the three stands: the name of its next operation, and what it remembers."""

    word: Word = Word()
    asleep: tuple[bool, ...] = (False,) * 3  # by bed
    waiting: tuple[bool, ...] = (False,) * 3  # within the system, which checks `asleep` first
    alive: bool = False  # the job
    next: int = 0
    done: tuple[int, ...] = ()
    at: tuple[str, ...] = ("open", "watch", "watch")
    seen: tuple[Word, ...] = (Word(),) * 3  # the word as it was when last read
    last: tuple[int, ...] = (0,) * 3  # of a thread: the number of the job it has looked at
    piece: tuple[int, ...] = (0,) * 3
    step: int = 0


def put(values: tuple, i: int, value: object) -> tuple:
    return (*values[:i], value, *values[i + 1 :])


@dataclass(frozen=True)
class Model:
    """The protocol, whole or with one of its parts left out."""

    steps: int = 3
    pieces: int = 2
    numbers: int = 4096  # after which the number of a job begins again
    looks_again: bool = True  # a thread that has lain down looks for a job before it sleeps
    enters_by_comparing: bool = True  # else it looks, and then adds itself
    closes: bool = True  # else the caller leaves the job open
    waits_for_all: bool = True  # else the caller returns when no piece is left
    says_that_it_waits: bool = True  # else the caller lies down without a word

    def calls(self, word: Word, last: int) -> bool:
        return word.open and word.number != last

    def next_states(self, s: State) -> Iterator[State]:
        yield from self.caller(s)
        for i in THREADS:
            yield from self.thread(s, i)

    # ---- Operations that both have ----

    def go(self, s: State, i: int, at: str, **changes: object) -> State:
        return replace(s, at=put(s.at, i, at), **changes)

    def sleep(self, s: State, i: int, then: str) -> Iterator[State]:
        """fastopt_sleep(): the system takes a thread in only while it is to sleep."""
        if s.waiting[i]:
            return
        if s.asleep[i]:
            yield replace(s, waiting=put(s.waiting, i, True))
        else:
            yield self.go(s, i, then)

    def wake(self, s: State, i: int, bed: int, ring: str, then: str) -> State:
        """fastopt_wake(): first the bed, then the system."""
        if s.asleep[bed]:
            return self.go(s, i, ring, asleep=put(s.asleep, bed, False))
        return self.go(s, i, then)

    def ring(self, s: State, i: int, bed: int, then: str) -> State:
        return self.go(s, i, then, waiting=put(s.waiting, bed, False))

    def work(self, s: State, i: int, then: str) -> Iterator[State]:
        if not s.alive:
            raise WrongError("somebody sees a job after its end")
        if s.next == self.pieces:
            yield self.go(s, i, then)
        else:
            yield self.go(s, i, "do", next=s.next + 1, piece=put(s.piece, i, s.next))

    def do(self, s: State, i: int) -> State:
        if not s.alive:
            raise WrongError("somebody sees a job after its end")
        piece = s.piece[i]
        return self.go(s, i, "work", done=put(s.done, piece, s.done[piece] + 1), piece=put(s.piece, i, 0))

    # ---- A thread: help() ----

    def thread(self, s: State, i: int) -> Iterator[State]:
        at, word, last = s.at[i], s.word, s.last[i]
        if at == "watch":
            if self.calls(word, last):
                yield self.go(s, i, "enter", seen=put(s.seen, i, word))
            yield self.go(s, i, "lie down")
        elif at == "lie down":
            yield self.go(s, i, "look again" if self.looks_again else "sleep", asleep=put(s.asleep, i, True))
        elif at == "look again":
            if self.calls(word, last):
                yield self.go(s, i, "get up", seen=put(s.seen, i, word))
            else:
                yield self.go(s, i, "sleep")
        elif at == "get up":
            yield self.go(s, i, "enter", asleep=put(s.asleep, i, False))
        elif at == "sleep":
            yield from self.sleep(s, i, "lie down")
        elif at == "enter":
            yield from self.enter(s, i)
        elif at == "work":
            yield from self.work(s, i, "leave")
        elif at == "do":
            yield self.do(s, i)
        elif at == "leave":
            wakes = word.inside == 1 and word.awaited
            yield self.go(s, i, "wake" if wakes else "watch", word=replace(word, inside=word.inside - 1))
        elif at == "wake":
            yield self.wake(s, i, CALLER, "ring", "watch")
        elif at == "ring":
            yield self.ring(s, i, CALLER, "watch")

    def enter(self, s: State, i: int) -> Iterator[State]:
        seen, word = s.seen[i], s.word
        last = put(s.last, i, seen.number)
        forgotten = put(s.seen, i, Word())
        yield self.go(s, i, "watch", last=last, seen=forgotten)  # it is on the caller's CPU, and there is no other
        if seen == word or not self.enters_by_comparing:
            yield self.go(s, i, "work", word=replace(word, inside=word.inside + 1), last=last, seen=forgotten)
        elif self.calls(word, s.last[i]):
            yield self.go(s, i, "enter", seen=put(s.seen, i, word))
        else:
            yield self.go(s, i, "watch", last=put(s.last, i, word.number), seen=forgotten)

    # ---- The caller: fastopt_run() ----

    def caller(self, s: State) -> Iterator[State]:
        at, word = s.at[CALLER], s.word
        if at == "open":
            if word.inside:
                raise WrongError("a job is opened while somebody is inside")
            opened = Word(open=True, number=(word.number + 1) % self.numbers)
            yield self.go(s, CALLER, "wake 1", word=opened, alive=True, next=0, done=(0,) * self.pieces)
        elif at == "wake 1":
            yield self.wake(s, CALLER, 1, "ring 1", "wake 2")
        elif at == "ring 1":
            yield self.ring(s, CALLER, 1, "wake 2")
        elif at == "wake 2":
            yield self.wake(s, CALLER, 2, "ring 2", "work")
        elif at == "ring 2":
            yield self.ring(s, CALLER, 2, "work")
        elif at == "work":
            self.check_awake(s)
            yield from self.work(s, CALLER, "close")
        elif at == "do":
            yield self.do(s, CALLER)
        elif at == "close":
            then = "wait" if word.inside and self.waits_for_all else "return"
            yield self.go(s, CALLER, then, word=replace(word, open=word.open and not self.closes))
        elif at == "wait":
            if not word.inside:
                yield self.go(s, CALLER, "return")
            else:
                yield self.go(s, CALLER, "lie down", seen=put(s.seen, CALLER, word))
        elif at == "lie down":
            yield self.go(s, CALLER, "say so", asleep=put(s.asleep, CALLER, True))
        elif at == "say so":
            forgotten = put(s.seen, CALLER, Word())
            if not self.says_that_it_waits:
                yield self.go(s, CALLER, "sleep", seen=forgotten)
            elif word == s.seen[CALLER]:
                yield self.go(s, CALLER, "sleep", word=replace(word, awaited=True), seen=forgotten)
            else:
                yield self.go(s, CALLER, "wait", seen=forgotten)
        elif at == "sleep":
            yield from self.sleep(s, CALLER, "wait")
        elif at == "return":
            if any(count != 1 for count in s.done):
                raise WrongError(f"a step returns with its pieces done {s.done} times")
            last = s.step + 1 == self.steps
            yield self.go(s, CALLER, "end" if last else "open", alive=False, step=s.step + 1)

    def check_awake(self, s: State) -> None:
        for i in THREADS:
            if s.waiting[i] and s.asleep[i] and self.calls(s.word, s.last[i]) and self.numbers > self.steps:
                raise WrongError("a thread sleeps through a job for which it was to be woken")

    # ---- The explorer ----

    def explore(self) -> int:
        """Return the number of states, of which none is wrong."""
        start = State()
        index = {start: 0}
        order = [start]
        before: list[list[int]] = [[]]
        ends = []
        for state in order:  # which grows meanwhile
            here = index[state]
            if state.at[CALLER] == "end":
                ends.append(here)
            for following in self.next_states(state):
                there = index.get(following)
                if there is None:
                    there = index[following] = len(order)
                    order.append(following)
                    before.append([])
                before[there].append(here)
        reaches_end = bytearray(len(order))
        while ends:
            here = ends.pop()
            if not reaches_end[here]:
                reaches_end[here] = 1
                ends += before[here]
        if not all(reaches_end):
            raise WrongError(f"the caller never comes to its end from {order[reaches_end.index(0)]}")
        return len(order)
