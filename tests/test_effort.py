"""What training cost: known answers of codecarbon's own tables, and proof that nothing leaves the process."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deploy_ext.core import DeployError, InvalidRequest
from deploy_ext.effort import WORDS, Effort, intensity, measure, used

QUIET = """
import json, os, sys, threading
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        seen.append([event, str(arguments)])
        raise OSError("no network here")
    if event == "open" and isinstance(arguments[0], str) and set(arguments[1] or "r") & set("wax+"):
        seen.append([event, arguments[0]])
sys.addaudithook(watch)
from deploy_ext.effort import measure
value, effort = measure(lambda: sum(range(20_000_000)), country="DEU", price=0.3)
timers = sum(isinstance(t, threading.Timer) for t in threading.enumerate())
open(3, "w").write(json.dumps({"seen": seen, "effort": effort.to_dict(), "timers": timers}))
"""

CONFIG = """[codecarbon]
output_methods = csv,api,logger,prometheus
save_to_file = true
save_to_api = true
emissions_endpoint = http://192.0.2.1:8008
electricitymaps_api_token = secret
co2_signal_api_token = secret
cloud_provider = aws
cloud_region = us-east-1
country_iso_code = POL
allow_multiple_runs = false
log_level = debug
output_dir = /nowhere
"""


def run_in(folder: Path, code: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """`code` in a fresh interpreter in `folder`, which is its home too; what it wrote to its file 3, as JSON."""
    told = folder.with_name("told.json")
    temporary = folder.with_name("tmp")
    temporary.mkdir()
    command = ["sh", "-c", f'exec "$0" -c "$1" 3> {told}', sys.executable, code]
    everything = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(temporary), **environment}
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, timeout=100)
    assert list(temporary.iterdir()) == []
    return done, json.loads(told.read_text() or "null")


@pytest.mark.parametrize("config", ["", CONFIG], ids=["no config", "a config that wants to tell everybody"])
def test_nothing_leaves_the_process(tmp_path: Path, config: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if config:
        (folder / ".codecarbon.config").write_text(config)
    before = sorted(folder.iterdir())
    done, told = run_in(folder, QUIET, **({"CODECARBON_SAVE_TO_API": "true"} if config else {}))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [event for event, _ in told["seen"] if event != "open"] == []
    written = [path for _, path in told["seen"] if not path.startswith(("/proc/", "/dev/", str(tmp_path / "tmp")))]
    assert written == []
    assert sorted(folder.iterdir()) == before
    assert told["timers"] == 0
    assert told["effort"]["kwh"] > 0
    assert told["effort"]["co2_kg"] == pytest.approx(told["effort"]["kwh"] * intensity("DEU"))


def test_a_config_that_cannot_be_read_costs_the_electricity_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / ".codecarbon.config").write_text("this is no config")
    done, told = run_in(folder, QUIET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert told["effort"]["kwh"] is None
    assert "codecarbon could not measure here" in told["effort"]["reasons"]["co2_kg"]
    assert told["effort"]["seconds"] > 0


WITHOUT = """
import json, sys
sys.modules["codecarbon"] = None  # as if it were not installed
from deploy_ext.effort import measure
_, effort = measure(lambda: 1, country="DEU", price=0.3)
open(3, "w").write(json.dumps({"facts": effort.facts(), "modules": sorted(sys.modules)}))
"""


def test_without_the_extra_there_is_time_and_memory_and_the_pip_line(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done, told = run_in(folder, WITHOUT)
    assert (done.returncode, done.stderr) == (0, "")
    facts = told["facts"]
    assert all("pip install 'deploy_ext[cost]'" in facts[f"train.{name}"] for name in ("kwh", "co2_kg", "eur"))
    assert facts["train.seconds"] >= 0 and facts["train.cpu_seconds"] >= 0
    assert not {"codecarbon", "psutil", "pandas", "numpy"} & set(told["modules"]) - {"codecarbon"}


def test_the_carbon_is_that_of_codecarbons_own_table() -> None:
    from codecarbon.input import DataSource

    mix = DataSource().get_global_energy_mix_data()
    for country in ("DEU", "FRA", "USA", "POL", "SWE"):
        assert intensity(country) == pytest.approx(mix[country]["carbon_intensity"] / 1000)


def test_the_clock_is_that_of_the_run_alone() -> None:
    def run() -> str:
        began.append(time.perf_counter())
        sum(range(10_000_000))
        ended.append(time.perf_counter())
        return "done"

    began: list[float] = []
    ended: list[float] = []
    result, effort = measure(run)
    assert result == "done"
    assert effort.seconds >= ended[0] - began[0]
    assert effort.seconds == pytest.approx(ended[0] - began[0], abs=1)  # codecarbon takes two seconds to begin


def test_processor_time_counts_a_child_that_has_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    _, effort = measure(lambda: subprocess.run([sys.executable, "-c", burn], check=True))
    assert effort.cpu_seconds >= 0.45  # the system counts in ticks of 10 ms; without the child it is 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes in /proc")
def test_a_process_whose_name_is_no_text_hides_no_other(tmp_path: Path) -> None:
    name = tmp_path / "Kreditmodelle_übung"  # Linux keeps 15 bytes, and with them half of the ü
    name.symlink_to("/bin/sleep")
    with subprocess.Popen([name, "60"]) as other:
        try:
            for pid in (other.pid, os.getpid()):
                found = used(pid)
                assert found and found[1] > 0
        finally:
            other.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the peak begin anew")
def test_the_peak_is_that_of_the_run() -> None:
    len(b"x" * 600_000_000)  # before, and larger
    _, small = measure(lambda: len(b"x" * 50_000_000))
    _, large = measure(lambda: len(b"x" * 400_000_000))
    assert small.memory_mb is not None and large.memory_mb is not None
    assert 300 < large.memory_mb - small.memory_mb < 400


@pytest.mark.parametrize("error", [ValueError("no convergence"), KeyboardInterrupt(), SystemExit(3), DeployError("x")])
def test_an_exception_goes_on_as_it_was_and_knows_the_effort(error: BaseException) -> None:
    def run() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        measure(run, country="DEU", price=1.0)
    assert caught.value is error
    effort = vars(caught.value)["effort"]
    assert isinstance(effort, Effort) and effort.eur == effort.kwh
    assert not any(isinstance(t, threading.Timer) for t in threading.enumerate())


def test_the_interrupt_key_stays_with_the_kernel() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    measure(lambda: None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_users_own_tracker_logs_as_before(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("codecarbon")
    measure(lambda: None)
    handler = logging.NullHandler()
    log.addHandler(handler)
    log.setLevel("WARNING")
    before = log.level, list(log.handlers), log.disabled
    measure(lambda: None)
    assert (log.level, log.handlers, log.disabled) == before
    log.removeHandler(handler)


def test_timers_of_the_user_go_on() -> None:
    fired = threading.Event()
    timer = threading.Timer(0.2, fired.set)

    def run() -> None:
        timer.start()

    measure(run)
    assert fired.wait(10)


def test_a_run_inside_a_run() -> None:
    def outer() -> Effort:
        return measure(lambda: sum(range(5_000_000)), country="FRA")[1]

    inner, effort = measure(outer, country="FRA")
    assert inner.kwh is not None and effort.kwh is not None and effort.kwh >= inner.kwh
    assert effort.seconds > inner.seconds


def test_from_another_thread() -> None:
    found: list[Effort] = []
    thread = threading.Thread(target=lambda: found.append(measure(lambda: 1)[1]))
    thread.start()
    thread.join()
    assert found[0].kwh is not None


@pytest.mark.parametrize(
    ("country", "hint"),
    [("DUE", "'DEU'"), ("de", "'DEU'"), ("Germany", "'DEU'"), ("XXXXX", "Known: "), ("de\n", "'DEU'")],
)
def test_a_country_is_looked_at_before_anything_runs(country: str, hint: str) -> None:
    ran: list[int] = []
    with pytest.raises(InvalidRequest) as caught:
        measure(lambda: ran.append(1), country=country)
    assert hint in str(caught.value)
    assert ran == []


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf"), "dear", object()])
def test_a_price_is_looked_at_before_anything_runs(price: Any) -> None:
    ran: list[int] = []
    with pytest.raises(InvalidRequest, match="no price of a kWh"):
        measure(lambda: ran.append(1), price=price)
    assert ran == []


def test_a_record_goes_to_json_and_back_and_names_every_fact() -> None:
    _, effort = measure(lambda: None, country="deu")
    assert Effort.from_dict(json.loads(effort.to_json())) == effort
    assert set(effort.facts()) == set(WORDS)
    assert effort.country == "DEU"
    assert effort.facts()["train.eur"] == "no price of a kWh is set"
    assert "DEU" in repr(effort) and "<table>" in effort._repr_html_()


def test_what_is_free_costs_nothing() -> None:
    _, effort = measure(lambda: None, country="DEU", price=0)
    assert effort.facts()["train.eur"] == 0.0
