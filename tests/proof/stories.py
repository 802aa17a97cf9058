"""The rooms that stories happen in, and the acts that they are made of."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace

from tests.proof.world import ANN, BEN, GUEST, OTHER_APP, Browser, Person, Scenario, Setting, World, at, retried

Room = SimpleNamespace
Act = Callable[[World, Room], Callable[[], object]]

BEGUN = 20
"""Minute in which the sign-ins under way began."""
NOW = 21
"""Minute of the requests: the idle limit slides, access tokens have expired."""
LATE = 107
"""Minute of the sweeps: the hour in which the sessions idle out has passed on every clock, the one that slid is alive still."""


def home(world: World) -> Room:
    """Ann in two browsers and in another app, Ben in one; Ann signs in with a third browser and in a second tab of the first."""
    room = Room()
    room.one = signed_in(world, ANN, "a1")
    room.two = signed_in(world, ANN, "a2")
    room.ben = signed_in(world, BEN, "b1")
    room.other = signed_in(world, ANN, "a1", app=OTHER_APP)
    room.flow = world.login(Browser(person=ANN, sid="a3"), at(BEGUN))
    room.tab = world.login(room.one, at(BEGUN))
    room.ben_flow = world.login(Browser(person=BEN, sid="b2"), at(BEGUN))
    return room


def alone(world: World) -> Room:
    """Ann in one browser, signing in with another and in a second tab; Ben as ever."""
    room = Room()
    room.one = signed_in(world, ANN, "a1")
    room.ben = signed_in(world, BEN, "b1")
    room.flow = world.login(Browser(person=ANN, sid="a3"), at(BEGUN))
    room.tab = world.login(room.one, at(BEGUN))
    return room


def nobody(world: World) -> Room:
    """Nobody of the account has a session yet; a sign-in is under way."""
    room = Room()
    room.ben = signed_in(world, BEN, "b1")
    room.flow = world.login(Browser(person=ANN, sid="a3"), at(BEGUN))
    room.same = world.login(Browser(person=ANN, sid="a3"), at(BEGUN))
    room.state_flow = world.login(Browser(person=ANN, sid=None, session_state="a3"), at(BEGUN))
    room.guest_flow = world.login(Browser(person=GUEST, sid="g1"), at(BEGUN))
    return room


def evening(world: World) -> Room:
    """Ann's first session has idled out, the second slid on and is filed under an hour that has passed."""
    room = Room()
    room.one = signed_in(world, ANN, "a1")
    room.two = signed_in(world, ANN, "a2")
    room.ben = signed_in(world, BEN, "b1", minute=LATE - 50)
    world.use(room.two, at(55))
    room.flow = world.login(Browser(person=ANN, sid="a3"), at(LATE - 1))
    return room


def dusk(world: World) -> Room:
    """Ann's only session has idled out, and a sign-in is under way."""
    room = Room()
    room.one = signed_in(world, ANN, "a1")
    room.flow = world.login(Browser(person=ANN, sid="a3"), at(LATE - 1))
    return room


def signed_in(world: World, person: Person, sid: str | None, *, app: str = "", minute: float = 0) -> Browser:
    """A browser that has signed in."""
    more = {"app": app} if app else {}
    return world.callback(world.login(Browser(person=person, sid=sid), at(minute), **more), at(minute))


# -- acts: a name, and what it does in a room at minute NOW (or LATE)


def _logout_and_back(world: World, room: Room, minute: float) -> str:
    world.logout(room.one, at(minute))
    world.callback(world.login(Browser(person=ANN, sid="a9"), at(minute + 1)), at(minute + 2))
    return "back"


def _acts(minute: float) -> dict[str, Act]:
    now = at(minute)
    return {
        "sign-in": lambda w, r: lambda: bool(w.callback(r.flow, now)),
        "sign-in in a tab": lambda w, r: lambda: bool(w.callback(r.tab, now)),
        "the same sign-in": lambda w, r: lambda: bool(w.callback(r.same, now)),
        "sign-in without sid": lambda w, r: lambda: bool(w.callback(r.state_flow, now)),
        "a guest's sign-in": lambda w, r: lambda: bool(w.callback(r.guest_flow, now)),
        "Ben's sign-in": lambda w, r: lambda: bool(w.callback(r.ben_flow, now)),
        "use": lambda w, r: lambda: w.use(r.one, now),
        "refresh": lambda w, r: lambda: bool(w.call_api(r.one, now)),
        "another refresh": lambda w, r: lambda: bool(w.call_api(r.one, now)),
        "use two": lambda w, r: lambda: w.use(r.two, now),
        "refresh two": lambda w, r: lambda: bool(w.call_api(r.two, now)),
        "logout": lambda w, r: lambda: w.logout(r.one, now),
        "another logout": lambda w, r: lambda: w.logout(r.one, now),
        "logout two": lambda w, r: lambda: w.logout(r.two, now),
        "logout and back": lambda w, r: lambda: _logout_and_back(w, r, minute),
        "everywhere": lambda w, r: lambda: w.everywhere(r.two, now),
        "device": lambda w, r: lambda: w.device(r.two, r.one, now),
        "front-channel": lambda w, r: lambda: w.front("a1", now),
        "front-channel of the sign-in": lambda w, r: lambda: w.front("a3", now),
        "back-channel sid": lambda w, r: lambda: w.back(now, sid="a1", jti="0"),
        "back-channel sub": lambda w, r: lambda: w.back(now, sub="ann", jti="1"),
        "back-channel both": lambda w, r: lambda: w.back(now, sid="a1", sub="ann", jti="2"),
        "back-channel of the sign-in": lambda w, r: lambda: w.back(now, sid="a3", jti="3"),
        "back-channel of the sign-in, both": lambda w, r: lambda: w.back(now, sid="a3", sub="ann", jti="4"),
        "administrator": lambda w, r: lambda: w.admin({"account": ANN.account}, now, ANN),
        "administrator by oid": lambda w, r: lambda: w.admin({"oid": ANN.oid, "tid": ANN.tid}, now, ANN),
        "administrator for a guest": lambda w, r: lambda: w.admin({"oid": GUEST.oid, "tid": GUEST.tid}, now, GUEST),
        "sweep": lambda w, r: lambda: w.sweep(now),
        "another sweep": lambda w, r: lambda: w.sweep(now),
        "clock": lambda w, r: lambda: w.jump(),
    }


ACTS = _acts(NOW)
LATE_ACTS = _acts(LATE)
ENDING_ANN = frozenset(
    name
    for name in ACTS
    if name.startswith(("logout", "another logout", "everywhere", "device", "front", "back", "administrator", "sweep"))
)
"""Acts after which one or all of Ann's sessions may be gone."""
RETRIED = frozenset(
    {"logout", "another logout", "everywhere", "front-channel", "front-channel of the sign-in", "administrator"}
) | {name for name in ACTS if name.startswith(("back-channel", "administrator"))}
"""What is tried again where it was answered 503."""


def story(
    names: Iterable[str],
    *,
    room: Callable[[World], Room] = home,
    setting: Setting | None = None,
    minute: float = NOW,
    sure: tuple[str, ...] = (),
    retry: bool = False,
    alive: Callable[[Room], tuple[Browser, ...]] | None = None,
) -> Scenario:
    """A scenario in which these act at once."""
    acts = ACTS if minute == NOW else LATE_ACTS
    names = tuple(names)

    def actors(world: World, there: Room) -> dict[str, Callable[[], object]]:
        made = {name: acts[name](world, there) for name in names}
        return {name: retried(work, 3) if retry and name in RETRIED else work for name, work in made.items()}

    def bystanders(there: Room) -> tuple[Browser, ...]:
        return tuple(getattr(there, name) for name in ("ben", "other") if hasattr(there, name))

    return Scenario(
        setting=setting or Setting(),
        prepare=room,
        actors=actors,
        minute=minute,
        alive=alive or bystanders,
        sure=sure,
    )
