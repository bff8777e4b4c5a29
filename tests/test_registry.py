"""The registry against SQLite and a real MLflow server, in good times and bad ones."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import flights, write
from servers import Proxy, free_port, proxy
from sklearn.linear_model import LogisticRegression
from stories import until

from deploy_ext import book
from deploy_ext.bundle import Bundle, open_bundle
from deploy_ext.core import DeployError, InvalidRequest, Settings, VerificationFailed, digest, home
from deploy_ext.records import Check, Event, Verdict, Version
from deploy_ext.registry import Registry
from deploy_ext.store import Store

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small sealed bundle."""
    X, y = flights()
    made = write(LogisticRegression().fit(X, y), tmp_path_factory.mktemp("bundle"), X)
    return made


@pytest.fixture
def own(begun: None, name: str) -> Registry:
    """The registry of a project with a database of its own."""
    return Registry(settings=Settings(experiment=name, user="ada"))


@pytest.fixture(params=["sqlite", "server"])
def registry(request: pytest.FixtureRequest, name: str) -> Registry:
    """A project's own registry, or one that uses the server."""
    if request.param == "sqlite":
        return request.getfixturevalue("own")
    return Registry(request.getfixturevalue("tracking_server"), Settings(experiment=name, user="ada"))


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A model name that no other test uses."""
    return tmp_path.name.replace("[", "-").strip("]-_")[:60]


def register(registry: Registry, bundle: Bundle, name: str, **more: Any) -> Version:
    """The next version of `name`."""
    how = {"provenance": {"commit": "1a2b3c", "rows": 60}, "purpose": "late arrivals", **more}
    return registry.log(bundle.folder, bundle, event=Event("register", name), **how)


def verdict(version: Version) -> Verdict:
    """A verdict that passed."""
    checks = (Check("roc_auc", 0.91, ">= 0.85", True, low=float("nan")),)
    return Verdict(version.name, version.version, checks, digest("g"), digest("d"), version.bundle, 60)


def promoted(registry: Registry, version: Version) -> Version:
    """`version`, judged and made champion."""
    given = verdict(version)
    registry.add_verdict(version, given)
    registry.append(Event("validate", version.name, to=str(version.version), verdict=given.digest))
    registry.set_alias(version.name, "champion", version.version)
    registry.append(Event("promote", version.name, to=str(version.version), reason="better"))
    return registry.version(version.name)


# the way of a version


def test_a_version_goes_in_and_comes_out(registry: Registry, bundle: Bundle, name: str) -> None:
    first, second = register(registry, bundle, name), register(registry, bundle, name, artifacts={"diff.patch": "+ä"})
    champion = promoted(registry, second)
    assert (first.version, champion.version, champion.aliases) == (1, 2, ("champion",))
    assert champion.verdict and champion.verdict.passed
    assert champion.provenance == {"commit": "1a2b3c", "rows": 60}
    assert (champion.purpose, champion.runs_code, champion.runtime) == ("late arrivals", False, "sklearn")
    assert registry.version(f"{name}/1").bundle == bundle.digest
    assert registry.version(f"{name}@champion") == champion == registry.latest(name)
    assert [v.version for v in registry.versions(name)] == [1, 2]
    assert name in registry.names()
    assert registry.aliases(name) == {"champion": 2}
    assert [r for r in registry.refs() if r.startswith(name)] == [name, f"{name}/1", f"{name}/2", f"{name}@champion"]
    assert [e.what for e in registry.events(name)] == ["register", "register", "validate", "promote"]
    assert {e.who for e in registry.events(name)} == {"ada"}
    assert registry.verify(name) == []
    copy = registry.download(champion)
    assert copy == home() / "bundles" / name / "2"
    assert open_bundle(copy, champion.bundle).files == bundle.files


def test_what_is_not_there_is_told_with_what_is(registry: Registry, bundle: Bundle, name: str) -> None:
    register(registry, bundle, name)
    for ref, told in {
        f"{name}x": f"Did you mean '{name}'",
        f"{name}/7": "has no version 7. Known: 1",
        f"{name}@chall": "has no alias 'chall'. There is none yet",
        name: "has no champion yet",
    }.items():
        with pytest.raises(InvalidRequest, match=told):
            registry.version(ref)


def test_a_version_made_by_others_is_to_be_adopted(registry: Registry, bundle: Bundle, name: str) -> None:
    registry.store.call("create_registered_model", name)
    made = registry.store.call(
        "create_model_version", name, source=register(registry, bundle, f"{name}s") and "s3://x/y"
    )
    with pytest.raises(InvalidRequest, match=f"register models:/{name}/{made.version} --name {name}"):
        registry.version(f"{name}/1")
    assert registry.versions(name) == []
    with pytest.raises(InvalidRequest, match="no version of ours"):
        registry.latest(name)


def test_nothing_of_the_users_mlflow_is_touched(
    registry: Registry, bundle: Bundle, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    before = dict(os.environ), mlflow.get_tracking_uri(), logging.getLogger("mlflow").level
    registry.download(promoted(registry, register(registry, bundle, name)))
    assert (dict(os.environ), mlflow.get_tracking_uri(), logging.getLogger("mlflow").level) == before
    assert capfd.readouterr() == ("", "")
    assert not (Path.cwd() / "mlruns").exists() and not (Path.cwd() / "mlflow.db").exists()
    assert not [t for t in threading.enumerate() if "telemetry" in t.name.lower()]


# all or nothing


def nothing_is_left(registry: Registry, name: str) -> None:
    """No model, no version, no run, no logged model, no event."""
    assert name not in registry.names()
    assert list(registry.store.pages("search_model_versions", f"name = '{name}'")) == []
    place = registry.store.call("get_experiment_by_name", registry.settings.experiment)
    assert list(registry.store.pages("search_runs", [place.experiment_id])) == []
    assert list(registry.store.pages("search_logged_models", [place.experiment_id])) == []
    assert registry.book.entries(name) == []


def mutation(number: int, then: str | Callable[[], str]) -> Callable[[str, str], str]:
    """A rule that lets everything pass but the writing request of this number."""
    count = 0

    def rule(method: str, path: str) -> str:
        nonlocal count
        if method == "GET" or path.endswith("/search") or "search" in path:
            return "pass"
        count += 1
        return (then() if callable(then) else then) if count == number else "pass"

    return rule


@pytest.fixture
def behind(tracking_server: str, name: str) -> Iterator[tuple[Proxy, Registry]]:
    """A registry behind a proxy that can be told to fail; experiments exist."""
    with proxy(tracking_server) as made:
        registry = Registry(made.url, Settings(experiment=name))
        _ = registry.book, registry.store.call("create_experiment", name)
        yield made, registry


def writes(made: Proxy) -> int:
    """How many requests so far wanted to write."""
    return sum(method != "GET" and "search" not in path for method, path in made.seen)


def test_refused_anywhere_leaves_nothing(behind: tuple[Proxy, Registry], bundle: Bundle, name: str) -> None:
    made, registry = behind
    number, complete = 0, False
    while not complete:
        number += 1
        made.rule = mutation(number, "refuse")
        try:
            register(registry, bundle, name)
            complete = True
        except DeployError as e:
            assert "not you" in str(e) and registry.uri in str(e)
            made.rule = lambda method, path: "pass"
            nothing_is_left(registry, name)
    assert number > len(bundle.files) + 6
    assert registry.verify(name) == []


def test_an_answer_lost_anywhere_makes_one_version(behind: tuple[Proxy, Registry], bundle: Bundle, name: str) -> None:
    """MLflow's client asks again when an answer is lost, and so may do a thing twice."""
    made, registry = behind
    register(registry, bundle, name)
    for count, number in enumerate(range(1, writes(made) + 1, 2), 2):
        made.rule = mutation(number, "lose")
        register(registry, bundle, name)
        assert len(registry.versions(name)) == count
    assert registry.verify(name) == []
    assert len(registry.events(name)) == len(registry.versions(name))


def test_ctrl_c_anywhere_leaves_nothing_or_all(behind: tuple[Proxy, Registry], bundle: Bundle, name: str) -> None:
    made, registry = behind
    register(registry, bundle, f"{name}-counted")

    def interrupt() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "pass"

    for number in range(1, writes(made) + 1, 2):
        made.rule = mutation(number, interrupt)
        before = len(registry.versions(name)) if name in registry.names() else 0
        try:
            register(registry, bundle, name)
            continue
        except KeyboardInterrupt:
            made.rule = lambda method, path: "pass"
        after = len(registry.versions(name)) if name in registry.names() else 0
        assert after in (before, before + 1)
        if after:
            assert registry.verify(name) == []


def test_an_event_that_stands_is_a_registration(behind: tuple[Proxy, Registry], bundle: Bundle, name: str) -> None:
    made, registry = behind
    created = 0

    def lose_the_event(method: str, path: str) -> str:
        nonlocal created
        created += path.endswith("/runs/create")
        return "lose" if path.endswith("/runs/create") and created > 1 else "pass"

    made.rule = lose_the_event
    assert register(registry, bundle, name).version == 1
    made.rule = lambda method, path: "pass"
    assert registry.verify(name) == []


def test_an_event_whose_answer_is_lost_stands_once(behind: tuple[Proxy, Registry], name: str) -> None:
    made, registry = behind
    made.rule = lambda method, path: "lose" if path.endswith("/runs/create") else "pass"
    written = registry.append(Event("up", name))
    assert registry.events(name) == [written]
    made.rule = lambda method, path: "refuse" if path.endswith("/runs/create") else "pass"
    with pytest.raises(DeployError, match="not you"):
        registry.append(Event("down", name))
    assert registry.events(name) == [written]


def test_too_long_a_reason_makes_nothing(registry: Registry, bundle: Bundle, name: str) -> None:
    with pytest.raises(InvalidRequest, match="Shorten"):
        registry.log(bundle.folder, bundle, provenance={}, event=Event("register", name, reason="x" * 9000))
    assert name not in registry.names()


# bad times


def test_a_server_that_is_down_is_told_at_once() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(DeployError, match=f"{url} does not answer.*DEPLOY_EXT_TRACKING_URI"):
        Registry(url).names()
    assert time.monotonic() - start < 10


def test_a_server_that_goes_away_is_told_within_seconds(tracking_server: str, bundle: Bundle, name: str) -> None:
    with proxy(tracking_server) as made:
        registry = Registry(made.url, Settings(experiment=name))
        register(registry, bundle, name)
    start = time.monotonic()
    with pytest.raises(DeployError, match="does not answer"):
        registry.version(f"{name}/1")
    assert time.monotonic() - start < 15


def test_a_failure_that_cannot_be_undone_says_what_is_left(
    behind: tuple[Proxy, Registry], bundle: Bundle, name: str
) -> None:
    made, registry = behind
    made.rule = lambda method, path: "refuse" if "model-versions/create" in path or "delete" in path else "pass"
    with pytest.raises(DeployError, match=r"not you.*could not be removed.*deploy_ext.token = \w{32}"):
        register(registry, bundle, name)


def run(script: str, folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """`script` in a process of its own whose project is `folder`; `before` is put before the command."""
    environment = {**os.environ, "DEPLOY_EXT_PROJECT": str(folder)}
    command = [*before, sys.executable, "-c", script]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


NAMES = """
import os, sys
from deploy_ext.core import DeployError
from deploy_ext.records import Event
from deploy_ext.registry import Registry
from deploy_ext.store import Store
try:
    Registry().{call}
except DeployError as e:
    print(type(e).__name__, e)
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[list[str]]:
    """What to put before a command so that modes count for root too; the project can be written again at the end."""
    drop = "-dac_override,-dac_read_search"
    yield ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.getuid() == 0 else []
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)


def test_a_read_only_project_is_told_and_left_as_it_was(own: Registry, tmp_path: Path, read_only: list[str]) -> None:
    own.append(Event("up", "flights"))
    for path in (*(tmp_path / ".deploy").rglob("*"), tmp_path / ".deploy"):
        path.chmod(0o555)
    before = sorted(p.name for p in (tmp_path / ".deploy").rglob("*"))
    done = run(NAMES.format(call='append(Event("up", "flights"))'), tmp_path, *read_only)
    assert done.stdout.startswith("DeployError") and "read-only" in done.stdout, done
    assert sorted(p.name for p in (tmp_path / ".deploy").rglob("*")) == before
    assert run("from deploy_ext.registry import *; print(Registry().names())", tmp_path, *read_only).stdout == "[]\n"


def test_a_project_where_nothing_can_be_made_is_told(tmp_path: Path, read_only: list[str]) -> None:
    tmp_path.chmod(0o555)
    done = run(NAMES.format(call="names()"), tmp_path, *read_only)
    assert done.stdout.startswith("DeployError") and done.stdout.count("\n") == 1, done
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_is_half_made(tmp_path: Path, bundle: Bundle) -> None:
    """A file may not grow beyond a limit: the kernel then refuses to write, as it does on a full disk."""
    script = f"""
import resource, signal
from pathlib import Path
from deploy_ext.bundle import open_bundle
from deploy_ext.core import DeployError
from deploy_ext.records import Event
from deploy_ext.registry import Registry
from deploy_ext.store import Store
registry, bundle = Registry(), open_bundle({str(bundle.folder)!r})
log = lambda: registry.log(bundle.folder, bundle, provenance={{}}, event=Event("register", "flights"))
log()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
try:
    log()
except DeployError as e:
    print(type(e).__name__, e)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert [v.version for v in registry.versions("flights")] == [1]
assert registry.verify("flights") == []
"""
    done = run(script, tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("DeployError"), done
    assert "disk" in done.stdout, done


# many at once

WORKER = """
import sys
from deploy_ext.bundle import open_bundle
from deploy_ext.core import Settings
from deploy_ext.records import Event
from deploy_ext.registry import Registry
from deploy_ext.store import Store
what, uri, experiment, name, arg, number = sys.argv[1:]
registry = Registry(uri or None, Settings(experiment=experiment))
if what == "register":
    bundle = open_bundle(arg)
    print(registry.log(bundle.folder, bundle, provenance={}, event=Event("register", name)).version)
else:
    for n in range(int(arg)):
        registry.append(Event("validate", name, reason=f"{number}.{n}"))
"""


def at_once(count: int, *arguments: str) -> list[str]:
    """What `count` worker processes print that run at the same time."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    done = [w.communicate(timeout=300) for w in workers]
    assert [w.returncode for w in workers] == [0] * count, done
    return [out.strip() for out, _ in done]


@pytest.mark.server
def test_processes_that_register_at_once_get_a_version_each(registry: Registry, bundle: Bundle, name: str) -> None:
    """With SQLite they also make the database at the same moment."""
    (home() / "mlflow.db").unlink(missing_ok=True)
    uri = registry.uri if registry.uri.startswith("http") else ""
    told = at_once(4, "register", uri, registry.settings.experiment, name, str(bundle.folder))
    assert sorted(told) == ["1", "2", "3", "4"]
    assert registry.verify(name) == []


@pytest.mark.server
def test_parallel_writers_lose_nothing(registry: Registry, name: str) -> None:
    remote = registry.uri.startswith("http")
    writers, each = (4, 6) if remote else (8, 25)
    registry.store.call("create_registered_model", name)
    at_once(writers, "append", registry.uri if remote else "", registry.settings.experiment, name, str(each))
    events = registry.events(name)
    assert {e.reason for e in events} == {f"{w}.{n}" for w in range(writers) for n in range(each)}
    assert len(events) == writers * each
    assert [p for p in registry.verify(name) if "was" in p and "event" in p.split()[0]] == []
    assert registry.verify(name) == []
    place = {e.digest: n for n, e in enumerate(events)}
    assert all(place[p] < n for n, e in enumerate(events) for p in e.parents)


def test_more_events_than_fit_on_a_page(own: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "PAGE", 20)
    last: tuple[str, ...] = ()
    for n in range(2 * book.NEWEST + 10):
        event = Event("validate", name, reason=str(n), parents=last)
        own.store.call("create_run", own.book.experiment, tags=book.to_tags(event))
        last = (event.digest,)
    assert [e.reason for e in own.events(name)] == [str(n) for n in range(2 * book.NEWEST + 10)]
    assert own.book.heads(name) == last


# tampering


def test_tampering_is_named(registry: Registry, bundle: Bundle, name: str) -> None:
    champion = promoted(registry, register(registry, bundle, name))
    call, entries = registry.store.call, registry.book.entries(name)
    register_, validate, promote = entries

    call("set_tag", validate.place, "deploy_ext.event", validate.text.replace('"to":"1"', '"to":"2"'))
    assert any("was altered" in line and validate.place in line for line in registry.verify(name))
    call("set_tag", validate.place, "deploy_ext.event", validate.text)

    call("set_tag", register_.place, "deploy_ext.model", "other")
    assert any("was removed" in line and validate.digest[:10] in line for line in registry.verify(name))
    call("set_tag", register_.place, "deploy_ext.model", name)

    call("delete_run", promote.place)
    assert any("in the bin" in line and promote.place in line for line in registry.verify(name))
    call("restore_run", promote.place)

    key = f"deploy_ext.verdict.{verdict_digest(champion)[:16]}"
    call("set_model_version_tag", name, "1", key, "{}")
    assert any("verdict" in line and "removed or altered" in line for line in registry.verify(name))
    assert registry.version(name).verdict is None
    registry.add_verdict(champion, replace(verdict(champion), rows=1_000_000))
    assert any("no validate event gave it" in line for line in registry.verify(name))


def verdict_digest(version: Version) -> str:
    """The digest of its verdict."""
    assert version.verdict
    return version.verdict.digest


def test_moves_past_us_are_named(registry: Registry, bundle: Bundle, name: str) -> None:
    champion = promoted(registry, register(registry, bundle, name))
    register(registry, bundle, name)
    registry.set_alias(name, "champion", 2)
    assert registry.verify(name) == ["champion is 2, the ledger says 1: it was moved outside deploy_ext."]
    registry.set_alias(name, "champion", champion.version)
    registry.store.call("delete_model_version", name, "2")
    assert registry.verify(name) == ["version 2 was registered and is no longer in the registry."]


def test_cutting_off_the_newest_events_is_noticed_by_who_has_seen_them(
    own: Registry, bundle: Bundle, name: str
) -> None:
    """Straight in the database, which leaves nothing in the bin."""
    registry = own
    register(registry, bundle, name)
    gone = registry.append(Event("up", name))
    assert registry.verify(name) == []
    with sqlite3.connect(home() / "mlflow.db") as database:
        (run,) = database.execute("select run_uuid from tags where value = ?", (gone.digest,)).fetchone()
        for table in ("tags", "latest_metrics", "runs"):
            database.execute(f"delete from {table} where run_uuid = ?", (run,))
    told = registry.verify(name)
    assert len(told) == 1 and gone.digest[:10] in told[0] and "this machine has seen it" in told[0]
    registry.append(Event("down", name))
    assert gone.digest[:10] in registry.verify(name)[0]


# files


def test_damage_is_mended_or_told(registry: Registry, bundle: Bundle, name: str) -> None:
    version = register(registry, bundle, name)
    copy = registry.download(version)
    stamp = (copy / "bundle.json").stat().st_mtime_ns
    assert registry.download(version) == copy and (copy / "bundle.json").stat().st_mtime_ns == stamp
    (copy / "contract.json").write_text("{}")
    assert open_bundle(registry.download(version), version.bundle)
    (copy / "contract.json").unlink()
    wrong = replace(version, bundle=digest("other"))
    with pytest.raises(VerificationFailed, match=f"{name}/1 is damaged in .*bundle.json"):
        registry.download(wrong)
    assert [p.name for p in copy.parent.iterdir()] == ["1"]


def test_a_file_damaged_in_the_store_is_named(own: Registry, bundle: Bundle, name: str) -> None:
    registry = own
    version = register(registry, bundle, name)
    (stored,) = (home() / "artifacts").rglob("profile.json")
    stored.write_text(stored.read_text()[:-1])
    with pytest.raises(VerificationFailed, match=r"profile\.json") as caught:
        registry.download(version)
    assert caught.value.file == "profile.json"
    assert not (home() / "bundles" / name / "1").exists()


def test_two_who_fetch_at_once_share_one_copy(registry: Registry, bundle: Bundle, name: str) -> None:
    version = register(registry, bundle, name)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(registry.download(version))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [home() / "bundles" / name / "1"] * 4
    assert open_bundle(found[0], version.bundle)
    assert [p.name for p in found[0].parent.iterdir()] == ["1"]


OTHERS = """
import sys, mlflow, numpy as np, pandas as pd
from sklearn.linear_model import LinearRegression
mlflow.set_tracking_uri(sys.argv[1])
X = pd.DataFrame({"x": np.arange(9.0)})
info = mlflow.sklearn.log_model(
    LinearRegression().fit(X, X.x * 2), name="m", registered_model_name=sys.argv[2], pip_requirements=["scikit-learn"]
)
mlflow.MlflowClient().set_registered_model_alias(sys.argv[2], "good", "1")
"""


def test_a_model_of_others_is_adopted(registry: Registry, name: str, tmp_path: Path) -> None:
    import pandas as pd

    registry.names()
    subprocess.run(
        [sys.executable, "-c", OTHERS, registry.uri, name], check=True, capture_output=True, cwd=tmp_path, timeout=120
    )
    for n, uri in enumerate((f"models:/{name}/1", f"models:/{name}@good")):
        model = registry.adopt(uri, tmp_path / f"adopted{n}")
        assert model.predict(pd.DataFrame({"x": [2.0]}))[0] == pytest.approx(4)
        assert "registered_model_meta" not in os.listdir(tmp_path / f"adopted{n}")
    for wrong, told in {
        f"models:/{name}/9": "no version 9",
        "models:/nobody/1": "no model 'nobody'",
        name: "Type models:/",
    }.items():
        with pytest.raises(InvalidRequest, match=told):
            registry.adopt(wrong, tmp_path / "none")


def test_where_the_address_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Registry().uri == f"sqlite:///{tmp_path}/.deploy/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:1")
    assert Registry().uri == "http://mlflow:1"
    (tmp_path / "deploy.toml").write_text('tracking_uri = "http://toml:1"\n')
    assert Registry().uri == "http://toml:1"
    monkeypatch.setenv("DEPLOY_EXT_TRACKING_URI", "http://environment:1")
    assert Registry().uri == "http://environment:1"
    assert Registry("http://argument:1").uri == "http://argument:1"


def test_files_of_the_default_store_lie_beside_it(bundle: Bundle, name: str, tmp_path: Path) -> None:
    register(Registry(), bundle, name)
    inside = {p.name for p in (tmp_path / ".deploy").iterdir()}
    assert inside == {".gitignore", "mlflow.db", "mlflow.db.lock", "artifacts", "ledger"}
    assert json.loads((tmp_path / ".deploy" / "ledger" / f"{name}.json").read_text())["format"] == 1


def test_a_database_that_was_killed_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = f"from deploy_ext.store import Store; Store({uri!r}).call('search_experiments')"
    process = subprocess.Popen([sys.executable, "-c", made], cwd=tmp_path)
    until(lambda: any(tmp_path.glob("mlflow.db.new-*")))
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert [e.name for e in Store(uri).call("search_experiments")] == ["Default"]
    assert not any(tmp_path.glob("mlflow.db.new-*"))
