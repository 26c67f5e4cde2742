"""The task of booking: a site that books once, faults that come again, and a solution that recovers from them."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rlbench.tasks.booking.faults import Fault, Rates, Visit, Wish, possible, send
from rlbench.tasks.booking.latency import Latency
from rlbench.tasks.booking.pages import Request, page_of, parsed, shown, written
from rlbench.tasks.booking.session import wish_of
from rlbench.tasks.booking.site import TIMES, Command, Notice, Site, Stage, Verb, act, buttons, expire, reprice, sell
from rlbench.tasks.booking.task import SHORTEST, State, next_command, suits

from rlbench.contract.task import blocks
from rlbench.plugins import build
from rlbench.testing import TASK_CHECKS
from rlbench.types import ConfigError, Status
from tests.fakes import VERIFIER

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "conf/task/booking.yaml").read_text())
NONE = dict.fromkeys(Rates._fields, 0.0)
SEEDS = range(300)
ANYTHING = Wish("AB1", "w", 9)


def booking(**settings):
    return build(SHIPPED | settings, "task")


def only(fault, rate=1.0):
    return NONE | {fault: rate}


def play(task, state, completions=None):
    """The steps of an episode, of given completions or of reference solutions."""
    steps, texts = [], iter(completions or ())
    while not steps or steps[-1].status == Status.OPEN:
        completion = next(texts, None) or task.solution(state)
        steps.append(task.step(state, completion))
        state = steps[-1].state
    return steps


def after(site, *commands):
    for command in commands:
        site = act(site, command)
    return site


SEARCH, PAY, BACK, RELOAD = Command(Verb.SEARCH, "AB1"), Command(Verb.PAY), Command(Verb.BACK), Command(Verb.RELOAD)
NAME, NOON = Command(Verb.NAME, "KT"), Command(Verb.TIME, "n")
START = Site(seed=7)
AT_SEATS = after(START, SEARCH, NOON)
FIRST = Command(Verb.SEAT, AT_SEATS.offer.first_seats[0].name)
AT_FORM = act(AT_SEATS, FIRST)
AT_PAYMENT = act(AT_FORM, NAME)


class TestSite:
    """Pages follow each other; what was booked is booked once."""

    def test_the_pages_lead_to_a_booking(self):
        stages = [START.stage]
        site = START
        for command in (SEARCH, NOON, FIRST, NAME, PAY):
            site = act(site, command)
            stages.append(site.stage)
        assert stages == [stage for stage in Stage if stage != Stage.LOGIN]
        (booking,) = site.bookings
        assert (booking.search, booking.time, booking.seat.name, booking.name) == ("AB1", "n", FIRST.value, "KT")
        assert booking.price == START._replace(search="AB1").offers[TIMES.index("n")].price

    def test_paying_again_books_nothing(self):
        once = act(AT_PAYMENT, PAY)
        assert act(once, PAY).bookings == once.bookings and len(once.bookings) == 1

    @pytest.mark.parametrize("site", [START, act(START, SEARCH), AT_SEATS, AT_FORM, AT_PAYMENT, expire(START)])
    def test_a_command_that_the_page_does_not_have_changes_nothing(self, site):
        assert act(site, None) == site._replace(notice=Notice.NOT_UNDERSTOOD)
        assert act(act(site, None), RELOAD) == site

    @pytest.mark.parametrize("site", [AT_SEATS, AT_FORM, AT_PAYMENT])
    def test_back_leads_to_the_results_and_then_to_the_search(self, site):
        assert act(site, BACK) == act(START, SEARCH)
        assert after(site, BACK, BACK) == START

    def test_a_seat_that_somebody_bought_is_sold_out(self):
        sold = sell(AT_SEATS, FIRST.value)
        assert act(sold, FIRST).notice == Notice.SOLD_OUT and act(sold, FIRST).stage == Stage.SEATS
        assert FIRST.value not in [seat.name for seat in sold.offer.seats]
        assert FIRST.value not in [seat.name for seat in after(sold, BACK, BACK, SEARCH, NOON).offer.seats]

    def test_the_cheapest_time_comes_first(self):
        for seed in SEEDS:
            page = page_of(Visit(act(Site(seed), SEARCH), 0))
            prices = [price for _, price, _ in page.times]
            assert prices == sorted(prices) and sorted(time for time, _, _ in page.times) == sorted(TIMES)

    def test_a_time_whose_seats_are_all_sold_is_shown_as_sold_out(self):
        site = AT_SEATS
        for seat in AT_SEATS.offer.seats:
            site = sell(site, seat.name)
        page = page_of(Visit(act(site, BACK), 0))
        assert {time: free for time, _, free in page.times} == {"d": True, "n": False, "e": True}
        assert "n-" in shown(page, "compact") and "noon sold out" in shown(page, "verbose")

    def test_a_price_that_changed_is_shown_and_not_paid(self):
        risen = act(reprice(AT_PAYMENT, 9), PAY)
        assert (risen.notice, risen.stage, risen.price, risen.bookings) == (Notice.PRICE, Stage.PAYMENT, 9, ())
        assert act(risen, PAY).bookings[0].price == 9

    def test_a_session_that_expired_has_to_log_in_and_begins_again(self):
        site = expire(AT_FORM)
        assert act(site, NAME).stage == Stage.LOGIN
        assert act(site, Command(Verb.LOGIN)) == START

    def test_it_keeps_its_bookings_when_the_session_expires(self):
        assert expire(act(AT_PAYMENT, PAY)).bookings == act(AT_PAYMENT, PAY).bookings


@pytest.mark.parametrize("style", ["compact", "verbose"])
def test_commands_are_read_as_they_are_written(style):
    commands = [SEARCH, FIRST, NAME, PAY, BACK, RELOAD, Command(Verb.LOGIN), Command(Verb.WAIT)]
    commands += [Command(Verb.TIME, time) for time in TIMES]
    assert [parsed(written(command, style), style) for command in commands] == commands
    for text in ("", " ", "p ", "AB0", "AB12", "pay now", "seat w0", "ab1", "2\n"):
        assert parsed(text, style) is None


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("settings", [{"pages": "verbose"}, {"max_faults": 0}], ids=str)
def test_the_contract_holds_in_other_settings(settings, check):
    TASK_CHECKS[check](booking(**settings), VERIFIER)


EVEN = dict.fromkeys(Rates._fields, 1 / len(Rates._fields))


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize(
    "settings",
    [{"max_faults": 0}, {}, {"faults": EVEN}, {"faults": EVEN, "max_faults": 5}, *({"faults": only(f)} for f in Fault)],
    ids=lambda settings: str(settings)[:40],
)
def test_the_reference_solution_is_paid_and_books_once_whatever_goes_wrong(settings, split):
    """Within the turns that the bounds allow."""
    task = booking(**settings)
    for seed in SEEDS:
        steps = play(task, task.problem(seed, split).state)
        assert (steps[-1].status, sum(step.reward for step in steps)) == (Status.PASSED, 1.0), steps[-1]
        assert len(steps) <= task.bounds.turns and len(steps[-1].state.visit.site.bookings) == 1


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_strikes_and_is_recovered_from(fault):
    task = booking(faults=only(fault), max_faults=1)
    ends = [play(task, task.problem(seed, "train").state)[-1] for seed in SEEDS]
    met = [end for end in ends if fault in end.labels]
    assert len(met) > 0.2 * len(SEEDS)
    assert all(end.labels == ((fault,) if fault == "double" else (fault, f"{fault}_recovered")) for end in met)
    assert all(end.labels == ("no_fault",) for end in ends if end not in met)


def test_faults_come_at_their_rates():
    task = booking(faults=only("network", 0.1), max_faults=10)
    visits = [play(task, task.problem(seed, "train").state)[-1].state.visit for seed in range(1000)]
    struck = sum(len(visit.met) for visit in visits)
    turns = sum(visit.turn - len(visit.met) for visit in visits)  # a fault cannot strike at the turn after another
    assert 0.085 < struck / turns < 0.115


def test_the_same_seed_has_the_same_faults_whatever_is_said():
    """At a turn at which it can strike: attempts at a problem differ by their commands alone."""
    task = booking(faults=only("network", 0.3), max_faults=10)
    for seed in SEEDS:
        state = task.problem(seed, "train").state
        one, other = play(task, state), play(task, state)
        assert one == other
        garbage = play(task, state, [state.request.search, *["?"] * task.bounds.turns])
        first = next((turn for turn, step in enumerate(one) if step.state.visit.met), None)
        assert first is None or [one.fault for one in garbage[first].state.visit.met] == [Fault.NETWORK]
        assert not first or not garbage[first - 1].state.visit.met
    others = [play(task, task.problem(seed, "train").state)[-1].state.visit.met for seed in SEEDS]
    assert len({len(met) for met in others}) > 2


def test_a_double_submission_books_once():
    visit = Visit(AT_PAYMENT, seed=1)
    end = send(visit, PAY, Rates(**only("double")), 1, ANYTHING)
    assert [one.fault for one in end.met] == [Fault.DOUBLE] and len(end.site.bookings) == 1


@pytest.mark.parametrize("again", [RELOAD, PAY])
def test_a_payment_whose_page_never_came_is_not_paid_again(again):
    rates = Rates(**only("timeout"))
    lost = send(Visit(AT_PAYMENT, seed=1), PAY, rates, 1, ANYTHING)
    assert lost.trouble == Fault.TIMEOUT and len(lost.site.bookings) == 1
    end = send(lost, again, rates, 1, ANYTHING)
    assert end.trouble is None and end.site.stage == Stage.CONFIRMED and end.site.bookings == lost.site.bookings


def test_a_payment_that_never_arrived_books_nothing():
    lost = send(Visit(AT_PAYMENT, seed=1), PAY, Rates(**only("network")), 1, ANYTHING)
    assert lost.site == AT_PAYMENT and shown(page_of(lost), "compact") == "!n>"


def test_who_goes_on_from_a_misclick_has_not_recovered():
    wish, rates = Wish("AB1", FIRST.value[0], 9), Rates(**only("misclick"))

    def sent(visit, *commands):
        for command in commands:
            visit = send(visit, command, rates, 1, wish)
        return visit

    struck = (sent(Visit(AT_SEATS, seed), FIRST) for seed in SEEDS)
    wrong = next(visit for visit in struck if visit.site.stage == Stage.FORM)
    assert wrong.site.seat.kind != wish.kind
    assert [one.recovered for one in sent(wrong, NAME, PAY).met] == [False]
    assert [one.recovered for one in sent(wrong, BACK, NOON, FIRST).met] == [False]
    assert [one.recovered for one in sent(wrong, BACK, NOON, FIRST, NAME).met] == [True]


def test_too_many_requests_are_waited_for():
    rates = Rates(**only("rate_limit"))
    visit = send(Visit(AT_PAYMENT, seed=1), PAY, rates, 1, ANYTHING)
    assert visit.trouble == Fault.RATE_LIMIT and visit.wait in (1, 2)
    refused = send(visit, PAY, rates, 1, ANYTHING)
    assert refused == visit._replace(turn=2)
    for _ in range(visit.wait):
        visit = send(visit, Command(Verb.WAIT), rates, 1, ANYTHING)
    assert visit.trouble is None and visit.site == AT_PAYMENT


@pytest.mark.parametrize("site", [START, act(START, SEARCH), AT_SEATS, AT_FORM, AT_PAYMENT])
def test_a_misclick_never_pays(site):
    command = next(iter([*buttons(site), SEARCH]))
    for seed in range(50):
        end = send(Visit(site, seed), command, Rates(**only("misclick")), 1, ANYTHING)
        assert not end.site.bookings and (not end.met or end.site != act(site, command))


def test_what_sells_out_leaves_what_is_wished_for():
    for seed in SEEDS:
        for fault in ("stale", "price"):
            task = booking(faults=only(fault), max_faults=9)
            for step in play(task, task.problem(seed, "train").state):
                assert possible(step.state.visit.site, wish_of(step.state.request))


def wrong(state, what):
    """The state with a request that differs in one way, so that its reference solution books something else."""
    request, site = state.request, state.visit.site
    others = {
        "route": request._replace(search=request.search[1::-1] + request.search[2]),
        "date": request._replace(search=request.search[:2] + str(int(request.search[2]) % 9 + 1)),
        "price": request._replace(limit=9),
        "seat": request._replace(kind="w" if request.kind != "w" else "a"),
        "name": request._replace(name=request.name[0] + ("K" if request.name[1] != "K" else "L")),
    }
    return State(others[what], Visit(site, state.visit.seed))


@pytest.mark.parametrize("what", ["route", "date", "price", "seat", "name"])
def test_a_booking_that_differs_from_the_request_pays_nothing(what):
    """It is booked as another request's solution would; dearer than allowed by the dearest offer."""
    task, booked = booking(max_faults=0), 0
    for seed in SEEDS:
        state = task.problem(seed, "train").state
        other = wrong(state, what)
        offers = other.visit.site._replace(search=other.request.search).offers
        dear = max(offers, key=lambda offer: offer.price)
        fine = [offer for offer in offers if suits(offer, other.request)]
        if not fine or (what == "price" and (dear.price <= state.request.limit or not suits(dear, other.request))):
            continue
        offer = dear if what == "price" else fine[0]
        seat = next(seat for seat in offer.first_seats if seat.kind == other.request.kind)
        completions = [other.request.search, offer.time, seat.name, other.request.name, "p"]
        end = play(task, state, completions)[-1]
        assert (end.status, end.reward, end.solved) == (Status.WRONG, 0.0, False)
        assert {"route": "route or day", "date": "route or day"}.get(what, what) in end.detail
        booked += 1
    assert booked > 50


def test_an_episode_without_a_booking_ends_with_its_turns_and_pays_nothing():
    task = booking()
    steps = play(task, task.problem(0, "train").state, ["?"] * 99)
    assert len(steps) == task.bounds.turns and steps[-1].status == Status.WRONG and not steps[-1].reward


def test_requests_leave_a_choice():
    """Some time is too dear or has no such seat; one time is tried in vain at most."""
    task, turns = booking(max_faults=0), set()
    for seed in SEEDS:
        problem = task.problem(seed, "train")
        offers = problem.state.visit.site._replace(search=problem.state.request.search).offers
        assert 1 <= sum(suits(offer, problem.state.request) for offer in offers) < len(offers)
        turns.add(len(play(task, problem.state)))
    assert turns == {SHORTEST, SHORTEST + 2}


@pytest.mark.parametrize("shaping", [0.4, 0.8])
def test_shaping_pays_for_pages_and_no_more_than_1(shaping):
    task = booking(shaping=shaping)
    for seed in SEEDS:
        state = task.problem(seed, "train").state
        steps = play(task, state)
        assert sum(step.reward for step in steps) == pytest.approx(1)
    steps = play(booking(shaping=shaping, max_faults=0), state, [state.request.search, "?", "b", state.request.search])
    assert [step.reward for step in steps[:4]] == [shaping / 4, 0, 0, 0]


def test_shaping_does_not_pay_for_what_the_request_does_not_allow():
    task = booking(shaping=0.4, max_faults=0)
    state = task.problem(0, "train").state
    steps = play(task, state, ["AB1", "n", "w1", "KK", "b", "b", "AB1"])
    assert state.request.search != "AB1" and not sum(step.reward for step in steps)


def test_states_are_small_and_survive_pickling():
    task = booking(faults=EVEN, max_faults=5)
    for step in play(task, task.problem(3, "train").state):
        assert pickle.loads(pickle.dumps(step.state)) == step.state and len(pickle.dumps(step.state)) < 4000


def test_the_solution_goes_by_what_was_shown():
    """A time is given up after its page had no such seat, not before."""
    task = booking(max_faults=0)
    state = next(
        state for state in (task.problem(seed, "train").state for seed in SEEDS) if len(play(task, state)) > SHORTEST
    )
    _, results, seats, back, *_ = play(task, state)
    assert not results.state.tried or seats.state.tried
    tried = back.state.tried
    assert len(tried) == 1 and next_command(back.state).value not in tried


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 6, "max_faults": 0}, "turns=6: at least 7, for max_faults=0"),
        ({"faults": dict.fromkeys(Rates._fields, 0.2)}, "faults=1.8 together: at most 1 together"),
        ({"faults": NONE | {"typhoon": 0.1}}, "typhoon"),
        ({"faults": NONE | {"network": 2.0}}, "network"),
        ({"shaping": 1.0}, "shaping"),
        ({"latency": SHIPPED["latency"] | {"distribution": "normal"}}, "latency"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        booking(**settings)


def test_a_request_is_told_in_both_forms():
    request = Request("CD7", 5, "w", "KT")
    from rlbench.tasks.booking.pages import asked

    assert asked(request, "compact") == "CD7<5wKT>"
    assert asked(request, "verbose").startswith("Book a ticket from C to D on day 7, for at most $5, a window seat")


def latency(**settings):
    return Latency(**SHIPPED["latency"] | {"seconds": 0.5, "longest": 1e9} | settings)


@pytest.mark.parametrize(
    ("settings", "above"),
    [
        ({"distribution": "constant"}, 0.0),
        ({"distribution": "log_normal"}, 0.05),  # of a tail of 3.1 times the mean
        ({"distribution": "pareto", "shape": 0.5}, (2 / 9.3) ** 3),  # exponent 3, from 2 / 3 of the mean on
    ],
)
def test_latency_has_its_mean_and_its_tail(settings, above):
    drawn = [latency(**settings).of(seed, turn) for seed in range(4000) for turn in range(5)]
    assert np.mean(drawn) == pytest.approx(0.5, rel=0.05)
    assert np.mean(np.array(drawn) > 3.1 * 0.5) == pytest.approx(above, rel=0.2)


def test_latency_is_the_same_for_the_same_turn_and_cut_at_its_longest():
    heavy = latency(distribution="pareto", longest=0.6)
    drawn = [heavy.of(seed, turn) for seed in range(200) for turn in range(5)]
    assert drawn == [heavy.of(seed, turn) for seed in range(200) for turn in range(5)]
    assert max(drawn) == 0.6 and len(set(drawn)) > 500


def test_steps_that_take_time_wait_side_by_side():
    """64 episodes of five steps, each a twentieth of a second: 16 s one after the other."""
    task = booking(max_faults=0, latency=SHIPPED["latency"] | {"distribution": "constant", "seconds": 0.05})
    states = [task.problem(seed, "train").state for seed in range(64)]
    began = time.monotonic()
    played = VERIFIER.play(task, states)
    assert 0.25 <= time.monotonic() - began < 8
    assert played == VERIFIER.play(booking(max_faults=0), states)
    assert blocks(task) and not blocks(booking())
