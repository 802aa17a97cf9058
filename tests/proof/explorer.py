"""The explorer: runs actors step by step, through every order of their steps.

An actor is a function that runs in a greenlet of its own.  Whatever it shares with others it touches in steps: it yields
*before* each, and the explorer chooses who goes on, and whether the step meets a fault.  A schedule is the list of these
choices; the same schedule always gives the same run, so a state is reached again by running its schedule from the start.

``explore`` goes through all schedules and continues from no state twice.  A state is what is stored, what each unfinished actor
has seen so far (it is a deterministic function of that), the clock, and the faults still to come.  So the schedules that
differ only in the order of steps that do not concern each other meet in one state, and the number of schedules that the
states stand for is counted along the edges between them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

CRASH, LOST, UNANSWERED, REPEATED, LATE = "crash", "lost", "unanswered", "repeated", "late"
FAULTS = (CRASH, LOST, UNANSWERED, REPEATED, LATE)
"""The actor dies before the step; the step fails, or is carried out, or is carried out later, and its answer is an error; it is
carried out, and once more after others had their turn."""
CLOCK = "the clock"
"""Who acts when all that is left to do is to wait."""
EVERYTHING = "everything to be seen"
"""What an actor's beginning reads: what there is, for the promise of a sign-out."""
NAP = timedelta(seconds=31)
"""What the clock jumps when all that is left to do is to wait."""


class Violation(AssertionError):
    """Something that must hold does not; ``trace`` is how it came about."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.trace: list[str] = []
        self.schedule: tuple[Choice, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join([self.what, *self.trace])


@dataclass(frozen=True, slots=True)
class Choice:
    """Whose step is next, and what befalls it."""

    actor: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A step that an actor is about to make; ``faults`` are those that it may meet.

    ``reads`` and ``writes`` name what it looks at and what it changes, ``rows`` the rows among the latter; ``alone``: its place
    among all others matters.
    """

    text: str
    faults: tuple[str, ...] = ()
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    sleep: bool = False
    alone: bool = False

    def concerns(self, other: "Call") -> bool:
        """Whether the order of the two may make a difference: one writes what the other reads, or both write one row."""
        return (
            self.alone
            or other.alone
            or not self.writes.isdisjoint(other.reads)
            or not other.writes.isdisjoint(self.reads)
            or not self.rows.isdisjoint(other.rows)
        )


@dataclass(slots=True, eq=False)
class _Actor:
    name: str
    root: str
    greenlet: Any
    history: int = 0
    pending: Call | None = None
    begun: bool = False
    done: bool = False
    crashed: bool = False
    outcome: object = None
    error: BaseException | None = None
    waits_for: list["_Actor"] = field(default_factory=list)
    parent: "_Actor | None" = None
    slept_at: int = -1
    counts: dict[str, int] = field(default_factory=dict)


_ALONE = Call("", alone=True)


class Run:
    """One execution.  ``world`` says what is stored (``state``), and checks (``after_step``, ``at_end``)."""

    def __init__(self, *, now: datetime, faults: int = 0, kinds: Sequence[str] = FAULTS, faulty: Iterable[str] = ()) -> None:
        self.now = now
        self.version = 0
        self.faults = faults
        self.kinds = frozenset(kinds)
        self.faulty = frozenset(faulty)
        self.fault_met = False
        self.actors: dict[str, _Actor] = {}
        self.late: dict[str, tuple[Call, Callable[[], object]]] = {}
        self.napped = False
        self.current: _Actor | None = None
        self.last = ""
        self.preemptions = 0
        self.log: list[str] | None = None
        self.phase = "setup"
        self._counts: dict[str, int] = {}
        self.on_begin: Callable[[str], None] = lambda _: None
        self._hub = getcurrent()

    # -- for the actors

    def step(self, call: Call) -> str:
        """Yields until the explorer says go on; returns the fault that the step meets, "" for none."""
        me = self.current
        if me is None:
            return ""
        if me.crashed:
            raise GreenletExit
        me.pending = call
        fault: str = self._hub.switch()
        if fault:
            self.saw(fault)
        if not me.begun:
            me.begun = True
            root = self.actors[me.root]
            if not root.begun or root is me:
                root.begun = True
                self.on_begin(me.root)
        return fault

    def saw(self, what: object) -> None:
        """Something that the current actor has learned, and on which it may act."""
        if self.current is not None:
            self.current.history = hash((self.current.history, what))

    def note(self, text: str) -> None:
        """A line for the trace."""
        if self.log is not None:
            self.log.append(f"{self.current.name if self.current is not None else '-'}: {text}")

    def clock(self) -> datetime:
        """The time, for an actor that looks at it while it runs."""
        self.saw(self.now)
        return self.now

    def nap(self) -> None:
        """Sleeps until something was written, or the clock has jumped."""
        me = self.current
        if me is None:  # the checks at the end: nobody else acts any more
            self.now += NAP
            return
        me.slept_at = self.version
        self.napped = True
        self.step(Call("waits", sleep=True, alone=True))
        self.saw("woke")

    def count(self, name: str) -> int:
        """Numbers things of one kind per actor, so that they have the same names whatever the schedule."""
        counts = self.current.counts if self.current is not None else self._counts
        counts[name] = counts.get(name, 0) + 1
        return counts[name]

    @property
    def who(self) -> str:
        """The name of the current actor."""
        return self.current.name if self.current is not None else self.phase

    def parallel(self, calls: Sequence[Callable[[], object]]) -> None:
        """Runs the calls at once, as actors of their own that die with theirs; raises the first error when all are done."""
        me = self.current
        if me is None or len(calls) < 2:
            for call in calls:
                call()
            return
        number = self.count("parallel")
        children = [self._spawn(f"{me.name}/{number}{'abcdefghijklmnop'[n]}", call, parent=me) for n, call in enumerate(calls)]
        me.waits_for = list(children)
        me.pending = None
        for child in children:
            self._resume(child)
        if me.waits_for:
            self._hub.switch()
        me.history = hash((me.history, *(child.history for child in children)))
        for child in children:
            del self.actors[child.name]
        for child in children:
            if child.error is not None:
                raise child.error

    def land_later(self, call: Call, work: Callable[[], object]) -> None:
        """An operation whose client has given up, and which the server carries out at some time."""
        self.late[f"{self.who}~{self.count('late')}"] = (call, work)

    # -- for the explorer

    def start(self, actors: Mapping[str, Callable[[], object]]) -> None:
        """Lets each actor run up to its first step."""
        for name, work in actors.items():
            self._resume(self._spawn(name, work, parent=None))

    def choices(self) -> list[Choice]:
        """What may happen next; empty at the end of the run."""
        found: list[Choice] = []
        asleep = False
        for actor in self.actors.values():
            call = actor.pending
            if actor.done or call is None:
                continue
            if call.sleep and actor.slept_at == self.version:
                asleep = True
                continue
            found.append(Choice(actor.name))
        found += [Choice(name) for name in self.late]
        if not found and asleep:
            found.append(Choice(CLOCK))
        if self.faults > 0:
            for actor in self.actors.values():
                call = actor.pending
                if actor.done or call is None or (self.faulty and actor.root not in self.faulty):
                    continue
                faults = [Choice(actor.root if fault == CRASH else actor.name, fault) for fault in call.faults]
                found += [choice for choice in faults if choice.fault in self.kinds and choice not in found]
        return found

    def call_of(self, choice: Choice) -> Call:
        """What a choice would do."""
        if choice.actor in self.late:
            return self.late[choice.actor][0]
        if choice.fault == CRASH:  # of the actor and all that it does in parallel
            return Call("dies", writes=frozenset({choice.actor}), rows=frozenset({choice.actor}))
        actor = self.actors.get(choice.actor)
        if actor is None or actor.pending is None:
            return _ALONE
        call = actor.pending
        if choice.fault == LOST:
            call = replace(call, writes=frozenset(), rows=frozenset())
        elif choice.fault == LATE:
            call = replace(call, writes=frozenset(), rows=frozenset())
        reads = call.reads | {actor.root} if actor.parent is not None else call.reads
        rows = call.rows | {actor.name}
        if not self.actors[actor.root].begun:
            reads |= {EVERYTHING}
        # Two that one actor does in parallel do not concern each other, its death concerns both.
        return replace(call, reads=reads, rows=rows)

    def take(self, choice: Choice) -> None:
        """Makes one step."""
        self._count_preemption(choice)
        if choice.actor in self.late:
            call, work = self.late.pop(choice.actor)
            if self.log is not None:
                self.log.append(f"{choice.actor}: lands late: {call.text}")
            self.current = _Actor(choice.actor, choice.actor, None)
            work()
            self.current = None
            return
        if choice.actor == CLOCK:
            self.now += NAP
            self.version += 1
            if self.log is not None:
                self.log.append(f"{CLOCK}: +{NAP.total_seconds():.0f} s")
            return
        actor = self.actors[choice.actor]
        if choice.fault:
            self.faults -= 1
            self.fault_met = True
        if choice.fault == CRASH:
            if self.log is not None:
                family = [a for a in self.actors.values() if a.root == actor.name and a.pending is not None and not a.done]
                self.log.append(
                    f"{actor.name}: dies before: {', '.join(a.pending.text for a in family if a.pending is not None)}"
                )
            self._crash(actor)
            return
        self._resume(actor, choice.fault)

    def key(self) -> tuple[object, ...]:
        """What decides how it may go on."""
        actors = tuple(
            (
                actor.name,
                actor.crashed,
                actor.outcome if actor.done and actor.parent is None else actor.history,
                actor.done,
                actor.slept_at == self.version,
            )
            for actor in self.actors.values()
        )
        return (actors, self.now, self.faults, self.fault_met, tuple(self.late))

    def close(self) -> None:
        """Ends what still runs."""
        for actor in list(self.actors.values()):
            self._kill(actor)

    # -- greenlets

    def _spawn(self, name: str, work: Callable[[], object], *, parent: _Actor | None) -> _Actor:
        actor = _Actor(name, parent.root if parent is not None else name, None, parent=parent)

        def body(_: str = "") -> None:
            try:
                actor.outcome = work()
            except GreenletExit:
                return
            except Exception as error:
                actor.error = error
                actor.history = hash((actor.history, type(error)))

        actor.greenlet = greenlet(body, parent=self._hub)
        actor.history = parent.history if parent is not None else 0
        self.actors[name] = actor
        return actor

    def _resume(self, actor: _Actor, value: str = "") -> None:
        """Runs an actor up to its next step, and its parent too where that was the last it waited for."""
        outer, self.current = self.current, actor
        hub, self._hub = self._hub, getcurrent()
        actor.greenlet.parent = self._hub
        actor.pending = None
        actor.greenlet.switch(value)
        self._hub, self.current = hub, outer
        if not actor.greenlet.dead:
            return
        actor.done = True
        parent = actor.parent
        if parent is not None:
            parent.waits_for.remove(actor)
            if not parent.waits_for and outer is not parent:
                self._resume(parent)
        elif actor.error is not None:
            raise actor.error

    def _crash(self, actor: _Actor) -> None:
        for other in [other for other in self.actors.values() if other.root == actor.root]:
            self._kill(other)
            other.crashed = other.done = True
        for name in [other.name for other in self.actors.values() if other.root == actor.root and other is not actor]:
            del self.actors[name]
        actor.outcome = "crashed"

    def _kill(self, actor: _Actor) -> None:
        if not actor.greenlet.dead:
            actor.crashed = True
            if not actor.greenlet:  # never started
                return
            outer, self.current = self.current, actor
            actor.greenlet.parent = getcurrent()
            actor.greenlet.throw(GreenletExit)
            self.current = outer

    def _count_preemption(self, choice: Choice) -> None:
        root = choice.actor.partition("/")[0].partition("~")[0]
        if self.last and root != self.last:
            before = [a for a in self.actors.values() if a.root == self.last]
            if any(not a.done and a.pending is not None and not a.pending.sleep for a in before):
                self.preemptions += 1
        self.last = root


@dataclass(slots=True)
class Report:
    """What was explored.  ``schedules`` is how many complete schedules the states stand for."""

    states: int = 0
    steps: int = 0
    runs: int = 0
    schedules: int = 0
    complete: bool = True


class Execution:
    """What ``explore`` needs of a scenario: a fresh run with its actors started, its stored state and its checks."""

    run: Run

    def state(self) -> object:
        """What is stored, and what was promised: hashable."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Checks what must hold at any time."""
        raise NotImplementedError

    def at_end(self) -> None:
        """Checks what must hold when everybody is done."""
        raise NotImplementedError


def explore(
    fresh: Callable[[], Execution], *, preemptions: int | None = None, at_most: int | None = None, count: bool = True
) -> Report:
    """Runs through every schedule (with at most ``preemptions`` switches away from an actor that could have gone on).

    Raises:
        Violation: with the schedule and the trace of its steps.
    """
    report = Report()
    numbers: dict[object, int] = {}
    states: list[_State] = []
    work: list[tuple[tuple[Choice, ...], int]] = [((), -1)]
    napped = False
    while work:
        prefix, origin = work.pop()
        if origin >= 0 and prefix[-1] in states[origin].leads_to:
            continue
        if at_most is not None and report.runs >= at_most:
            report.complete = False
            break
        report.runs += 1
        execution = _replayed(fresh, prefix)
        run = execution.run
        path = list(prefix)
        try:
            while True:
                napped = napped or run.napped
                key = (run.key(), execution.state(), (run.last, run.preemptions) if preemptions is not None else None)
                number = numbers.get(key)
                new = number is None
                if number is None:
                    number = numbers[key] = len(states)
                    states.append(_State())
                state = states[number]
                if origin >= 0:
                    states[origin].leads_to[path[-1]] = number
                if not new:
                    break
                choices = run.choices()
                if preemptions is not None:
                    choices = _within(run, choices, preemptions)
                if not choices:
                    state.end = True
                    _checked(execution.at_end, fresh, path)
                    break
                state.calls = {choice: run.call_of(choice) for choice in choices}
                if origin >= 0 and not napped and preemptions is None:
                    _complete_diamonds(states, states[origin], path[-1], state)
                choices = [choice for choice in choices if choice not in state.leads_to]
                if not choices:
                    break
                work.extend(((*path, choice), number) for choice in reversed(choices[1:]))
                path.append(choices[0])
                origin = number
                _checked(lambda choice=choices[0]: _step(execution, choice), fresh, path)  # type: ignore[misc]
        finally:
            run.close()
    report.states = len(states)
    report.steps = sum(len(state.leads_to) for state in states)
    report.schedules = _paths(states) if count else 0
    return report


def walk(fresh: Callable[[], Execution], choose: Callable[[int], int]) -> None:
    """One schedule: at each step ``choose`` says which of so many choices is taken.

    Raises:
        Violation: with the schedule and the trace of its steps.
    """
    execution = fresh()
    path: list[Choice] = []
    try:
        while choices := execution.run.choices():
            choice = choices[choose(len(choices)) if len(choices) > 1 else 0]
            path.append(choice)
            _checked(lambda choice=choice: _step(execution, choice), fresh, path)  # type: ignore[misc]
        _checked(execution.at_end, fresh, path)
    finally:
        execution.run.close()


@dataclass(slots=True)
class _State:
    """What is known of a state: what may happen in it, and where that leads."""

    calls: dict[Choice, Call] = field(default_factory=dict)
    leads_to: dict[Choice, int] = field(default_factory=dict)
    end: bool = False


def _complete_diamonds(states: list[_State], before: _State, taken: Choice, state: _State) -> None:
    """Two steps that do not concern each other lead to one state in either order: the second order need not be run."""
    mine = before.calls[taken]
    for other in state.calls:
        first = before.leads_to.get(other)
        if first is None or taken not in states[first].leads_to:
            continue
        theirs = before.calls[other]
        if not mine.concerns(theirs):
            state.leads_to[other] = states[first].leads_to[taken]


def trace_of(fresh: Callable[[], Execution], schedule: Sequence[Choice]) -> list[str]:
    """The steps of a schedule in words."""
    execution = fresh()
    execution.run.log = []
    try:
        for choice in schedule:
            _step(execution, choice)
    except Violation:
        pass
    finally:
        execution.run.close()
    return execution.run.log


def _replayed(fresh: Callable[[], Execution], prefix: Sequence[Choice]) -> Execution:
    """The state that a schedule leads to; all but its last step has been checked before."""
    execution = fresh()
    for choice in prefix[:-1]:
        execution.run.take(choice)
    if prefix:
        try:
            _checked(lambda: _step(execution, prefix[-1]), fresh, prefix)
        except Violation:
            execution.run.close()
            raise
    return execution


def _step(execution: Execution, choice: Choice) -> None:
    execution.run.take(choice)
    execution.after_step()


def _checked(check: Callable[[], None], fresh: Callable[[], Execution], schedule: Sequence[Choice]) -> None:
    try:
        check()
    except Violation as violation:
        if not violation.schedule:
            violation.schedule = tuple(schedule)
            violation.trace = trace_of(fresh, schedule)
        raise


def _within(run: Run, choices: list[Choice], bound: int) -> list[Choice]:
    going_on = [choice for choice in choices if choice.actor.partition("/")[0].partition("~")[0] == run.last]
    if run.preemptions < bound or not any(not choice.fault for choice in going_on):
        return going_on + [choice for choice in choices if choice not in going_on]
    return going_on


def _paths(states: list[_State]) -> int:
    """How many ways lead from the first state to an end."""
    ways: dict[int, int] = {}
    stack = [0]
    while stack:
        number = stack[-1]
        missing = [other for other in states[number].leads_to.values() if other not in ways]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        ways[number] = 1 if states[number].end else sum(ways[other] for other in states[number].leads_to.values())
    return ways.get(0, 0)
