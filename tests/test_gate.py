from __future__ import annotations

from mdslite.serving.gate import Gate, Priority, Seat


def entrant(name: str, order: list[str], *, width: int = 1, wants: bool = True) -> Seat:
    """A seat that starts whenever it is admitted, and says so in a list shared with others."""

    def start() -> bool:
        if wants:
            order.append(name)
        return wants

    return Seat(width=width, start=start)


def left(gate: Gate, seat: Seat, seconds: float) -> None:
    """A batch is over, and its lane wants nothing more."""
    gate.leave(seat, seconds)
    gate.let_in()


def test_a_free_device_admits_at_once() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    gate.enter(entrant("a", order))
    assert order == ["a"]
    assert gate.busy == 1


def test_a_busy_device_makes_others_wait_until_it_is_left() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    first, second = entrant("a", order), entrant("b", order)
    gate.enter(first)
    gate.enter(second)
    assert order == ["a"]
    left(gate, first, 0.1)
    assert order == ["a", "b"]


def test_shadow_and_replay_come_after_every_primary() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    holder = entrant("holder", order)
    gate.enter(holder)
    gate.enter(entrant("shadow", order), Priority.SHADOW)
    gate.enter(entrant("replay", order), Priority.REPLAY)
    primary = entrant("primary", order)
    primary.virtual_s = 100.0
    gate.enter(primary)
    for _ in range(3):
        left(gate, holder, 0.0)
    assert order == ["holder", "primary", "replay", "shadow"]


def test_within_a_priority_the_one_that_used_least_goes_first() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    seats = {"busy": entrant("busy", order), "quiet": entrant("quiet", order)}
    took = {"busy": 1.0, "quiet": 0.3}
    for seat in seats.values():
        gate.enter(seat)
    for _ in range(6):
        last = order[-1]
        gate.leave(seats[last], took[last])
        gate.enter(seats[last])  # each goes on for ever, and is weighed with the other
    assert order == ["busy", "quiet", "quiet", "quiet", "quiet", "busy", "quiet"]


def test_an_idle_lane_saves_up_no_credit() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    busy, late = entrant("busy", order), entrant("late", order)
    for _ in range(10):
        gate.enter(busy)
        left(gate, busy, 1.0)
    gate.enter(busy)
    gate.enter(late)
    assert late.virtual_s >= 9.0


def test_a_wide_lane_waits_for_all_its_slots_and_is_not_overtaken() -> None:
    order: list[str] = []
    gate = Gate(slots=2)
    narrow, wide, other = entrant("narrow", order), entrant("wide", order, width=2), entrant("other", order)
    other.virtual_s = 1.0
    gate.enter(narrow)
    gate.enter(wide)
    gate.enter(other)
    assert order == ["narrow"]
    left(gate, narrow, 0.5)
    assert order == ["narrow", "wide"]
    left(gate, wide, 0.5)
    assert order == ["narrow", "wide", "other"]


def test_a_lane_wider_than_the_device_takes_it_whole() -> None:
    order: list[str] = []
    gate = Gate(slots=2)
    huge = entrant("huge", order, width=64)
    gate.enter(huge)
    assert gate.busy == 2
    left(gate, huge, 1.0)
    assert gate.busy == 0


def test_an_entrant_that_wants_nothing_any_more_gives_its_slots_back() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    gate.enter(entrant("gone", order, wants=False))
    assert gate.busy == 0
    holder = entrant("holder", order)
    gate.enter(holder)
    leaver = entrant("leaver", order)
    gate.enter(leaver)
    gate.withdraw(leaver)
    left(gate, holder, 0.1)
    assert order == ["holder"]


def test_who_waits_and_asks_again_for_less_keeps_its_place() -> None:
    order: list[str] = []
    gate = Gate(slots=1)
    holder, first, second = (entrant(name, order) for name in ("holder", "first", "second"))
    gate.enter(holder)
    gate.enter(first)
    gate.enter(first, Priority.REPLAY)
    gate.enter(second)
    second.virtual_s = 1.0
    left(gate, holder, 0.0)
    assert order == ["holder", "first"]


def test_who_is_asked_for_by_one_that_starts_comes_after_it() -> None:
    order: list[str] = []
    gate = Gate(slots=2)
    second = entrant("second", order)

    def start() -> bool:
        gate.enter(second)
        order.append("first")
        return True

    gate.enter(Seat(width=1, start=start))
    assert order == ["first", "second"]
    assert gate.busy == 2
