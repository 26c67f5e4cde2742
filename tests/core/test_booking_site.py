"""The booking site over HTTP: the same pages and rewards as in this process, a browser, and a server that is killed."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from rlbench.contract.task import opened
from rlbench.experiment import run
from rlbench.types import Status, Tracker
from tests.core.test_booking import EVEN, booking
from tests.fakes import VERIFIER

pytest.importorskip("starlette", reason="serves the site: pip install 'rlbench[booking]'")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(port):
    """A server that answers."""
    server = subprocess.Popen([sys.executable, "-m", "rlbench.tasks.booking.server", "--port", str(port)])
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return server
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None
            time.sleep(0.1)
    raise AssertionError("it does not answer")


@pytest.fixture(scope="module")
def url():
    port = free_port()
    server = serve(port)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


def turns(task, state, completion=None):
    """The steps of an episode, of reference solutions or always the same completion."""
    steps = []
    while not steps or steps[-1].status == Status.OPEN:
        steps.append(task.step(state, completion or task.solution(state)))
        state = steps[-1].state
    return steps


@pytest.mark.parametrize("pages", ["compact", "verbose"])
@pytest.mark.parametrize("completion", [None, "b", "<&'\"é"])
def test_an_episode_over_http_is_that_of_this_process(url, pages, completion):
    here, there = (booking(pages=pages, faults=EVEN, url=where) for where in (None, url))
    with opened(there):
        for seed in range(12):
            state = here.problem(seed, "train").state
            assert turns(there, state, completion) == turns(here, state, completion)


def test_many_episodes_are_played_at_once(url):
    here, there = (booking(faults=EVEN, url=where) for where in (None, url))
    states = [here.problem(seed, "train").state for seed in range(64)]
    with opened(there):
        assert VERIFIER.play(there, states) == VERIFIER.play(here, states)


def test_while_the_server_is_down_nothing_is_judged_and_then_it_goes_on():
    """A rollout of then is masked: it is not paid 0. The others go on where they were."""
    port = free_port()
    server = serve(port)
    task = booking(max_faults=0, url=f"http://127.0.0.1:{port}")
    states = [task.problem(seed, "train").state for seed in range(8)]

    def judged(states):
        steps, _ = VERIFIER.judge(task, [(state, task.solution(state)) for state in states])
        return steps

    with opened(task):
        before = judged(states)
        assert {step.status for step in before} == {Status.OPEN}
        server.send_signal(signal.SIGKILL)
        server.wait(10)
        down = judged([step.state for step in before])
        assert {step.status for step in down} == {Status.INFRASTRUCTURE}
        assert all(step.detail.startswith(task.url) and step.solved is None for step in down)
        server = serve(port)
        try:
            assert {step.status for step in VERIFIER.play(task, [step.state for step in before])} == {Status.PASSED}
        finally:
            server.kill()
            server.wait(10)


class Outage(Tracker):
    """A tracker that kills the site after the first step, and starts it again after the second."""

    def __init__(self, port):
        self.port, self.server = port, serve(port)

    def log(self, row):
        if row["step"] == 1:
            self.server.kill()
            self.server.wait(10)
        elif row["step"] == 2:
            self.server = serve(self.port)


def test_a_run_outlives_its_site(plan_of, tmp_path):
    """Rollouts of the time when it was down are masked; no step is missing."""
    outage = Outage(free_port())
    words = [f"task.url=http://127.0.0.1:{outage.port}", "task.max_faults=0", "verifier.max_failures=1"]
    plan = plan_of("grpo", *words, "evaluation.every=100", task="booking")
    try:
        summary = run(plan._replace(trackers=[outage]), tmp_path)
    finally:
        outage.server.kill()
        outage.server.wait(10)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    failures = {row["step"]: row["infrastructure_failures"] for row in rows if row["step"]}
    assert failures == {1: 0, 2: 16, 3: 0}
    fates = json.loads((tmp_path / "ledger.json").read_text())["rollouts"]["by_fate"]
    assert summary["status"] == "finished" and fates["infrastructure_failure"] == 16
    assert sum(fates.values()) == 48 and summary["accuracy_after"] is not None


def test_what_is_no_session_is_refused(url):
    for body in (b"", b"session=%5B%5D&command=b", b"session=x"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{url}/", body, timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{url}/?seed=x", timeout=10)


def test_another_site_is_no_booking_site(url):
    from rlbench.tasks.booking.client import Client, Down
    from rlbench.tasks.booking.session import Session

    task = booking(url=url)
    session = Session(*task.problem(0, "train").state[:2], task.faults, task.max_faults)
    with pytest.raises(Down, match="HTTP 40"):
        Client(f"{url}/elsewhere").send(session, "b", "compact")


def test_a_person_can_click_through_it(url, browser):
    page = browser.new_page()

    def press(button):
        with page.expect_navigation():
            page.click(button)

    page.goto(f"{url}/?seed=3")
    assert "from C to D on day 7" in page.inner_text("#request")
    page.fill("input[name=command]", "CD7")
    press("text=Send")
    press("text=choose noon")
    press("button[value=b]")
    press("text=choose dawn")
    press("button >> nth=0")
    page.fill("input[name=command]", "KT")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "To pay" in page.inner_text("#page")
    press("button[value=p]")
    confirmed = page.inner_text("#page")
    assert confirmed.startswith("Booked, number")
    page.go_back()  # and pays again: the ticket is the same
    press("button[value=p]")
    assert page.inner_text("#page") == confirmed
    page.close()
