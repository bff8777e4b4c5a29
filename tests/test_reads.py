"""What real kernels and processes read, and whether that is still so."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import SECONDS, ask, kernel

from deploy_ext.cache import cacheable, changed
from deploy_ext.core import InvalidRequest, digest
from deploy_ext.reads import Folder, Read, Reads, named, report

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")


def ran(folder: Path, source: str, memory: Path | None = None, watching: str = "", **environ: str) -> Reads:
    """What a process reads that runs `source` in `folder`."""
    whole = "from deploy_ext.reads import report\nfrom deploy_ext.watching import LOGS, watch\n"
    whole += f"watch({watching})\n{source}\n"
    whole += f"print('\\n' + report({str(memory) if memory else None!r}).to_json())"
    surroundings = {**os.environ, "DEPLOY_EXT_PROJECT": str(folder), "OMP_NUM_THREADS": "1", **environ}
    script = [sys.executable, "-c", whole]
    done = subprocess.run(
        script, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return Reads.from_dict(json.loads(done.stdout.splitlines()[-1]))


def csv(reads: Reads) -> Read:
    """What is told of the CSV file."""
    return next(file for file in reads.files if file.path.endswith("t.csv"))


def inside(reads: Reads, kind: str = "data") -> set[str]:
    """The files of the project that were read."""
    return {path for path in reads.of(kind) if not path.startswith("/")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A project with a file of each kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    frame = pd.DataFrame({"a": [1, 2, 3], "b": list("xyz")})
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    frame.to_json(folder / "t.json")
    frame.to_pickle(folder / "t.pkl")
    frame.to_feather(folder / "t.feather")
    np.save(folder / "t.npy", np.arange(3))
    joblib.dump({"a": 1}, folder / "t.joblib")
    (folder / "t.txt").write_text("x")
    (folder / "set").mkdir()
    for part in "12":
        frame.to_parquet(folder / "set" / f"{part}.parquet")
    connection = sqlite3.connect(folder / "t.db")
    connection.execute("create table t (a)")
    connection.close()
    return tmp_path


READERS = {
    "t.csv": "pd.read_csv('data/t.csv')",
    "t.json": "pd.read_json('data/t.json')",
    "t.pkl": "pd.read_pickle('data/t.pkl')",
    "t.feather": "pd.read_feather('data/t.feather')",
    "t.npy": "np.load('data/t.npy', mmap_mode='r')",
    "t.joblib": "joblib.load('data/t.joblib')",
    "t.txt": "Path('data/t.txt').read_text()",
    "t.db": "sqlite3.connect('file:data/t.db?mode=ro', uri=True).execute('select * from t')",
}


@LINUX
def test_a_notebook_in_a_kernel(data: Path) -> None:
    (data / "features.py").write_text("LATE = 30\n")
    with kernel(data) as k:
        ask(k, "__import__('deploy_ext.watching').watching.watch()")
        k.run("import sqlite3, glob, joblib, numpy as np, pandas as pd\nfrom pathlib import Path\nimport features")
        for reader in READERS.values():
            k.run(reader)
        k.run("pd.read_parquet('data/t.parquet').to_parquet('data/out.parquet')")
        k.run("pd.read_csv('data/t.csv').to_csv('middle.csv'); pd.read_csv('middle.csv')")
        k.run("[open(p).close() for p in glob.glob('data/set/*')]")
        told = Reads.from_dict(json.loads(ask(k, "__import__('deploy_ext.reads').reads.report().to_json()")))
        assert inside(told) == {f"data/{name}" for name in READERS} | {
            "data/t.parquet",
            "data/set/1.parquet",
            "data/set/2.parquet",
        }
        assert inside(told, "code") == {"features.py"}
        assert [f.path for f in told.folders] == ["data/set"]
        assert (told.hosts, told.programs, told.unseen, cacheable(told)) == ((), (), (), "")
        assert all(f.sha256 == digest(data / f.path) for f in told.files)
        assert changed(told, data) == ""
        k.run("!echo a")
        told = Reads.from_dict(json.loads(ask(k, "__import__('deploy_ext.reads').reads.report().to_json()")))
        assert cacheable(told) == "it ran a program: echo"
    (data / "features.py").write_text("LATE = 15\n")
    assert changed(told, data) == "features.py has changed"


@pytest.mark.parametrize("name", READERS)
def test_the_readers_one_by_one(name: str, data: Path) -> None:
    imports = "import sqlite3, joblib, numpy as np, pandas as pd\nfrom pathlib import Path\n"
    told = ran(data, imports + READERS[name])
    assert inside(told) == {f"data/{name}"}
    assert cacheable(told) == ""


ONE = {"data/t.parquet"}
BOTH = {"data/set/1.parquet", "data/set/2.parquet"}


@LINUX
@pytest.mark.parametrize(
    ("source", "files", "folders"),
    [
        ("pd.read_parquet('data/t.parquet')", ONE, []),
        ("pd.read_parquet('data/set')", BOTH, ["data/set"]),
        ("pd.read_csv('data/t.csv', engine='pyarrow')", {"data/t.csv"}, []),
        ("import pyarrow.dataset as ds; ds.dataset('data/set').to_table()", BOTH, ["data/set"]),
        ("import pyarrow.csv; pyarrow.csv.read_csv('data/t.csv')", {"data/t.csv"}, []),
        ("import os; os.chdir('data'); pd.read_parquet('t.parquet')", ONE, []),
        ("pd.read_parquet('data/t.parquet').to_parquet('a.parquet'); pd.read_parquet('a.parquet')", ONE, []),
        ("import os; os.mkdir('n'); pd.read_parquet('data/t.parquet').to_parquet('n/a.parquet')", ONE, []),
        ("import importlib; importlib.import_module('pyarrow.parquet').read_table('data/t.parquet')", ONE, []),
    ],
)
def test_files_that_python_does_not_open(source: str, files: set[str], folders: list[str], data: Path) -> None:
    told = ran(data, f"import pandas as pd\n{source}")
    assert inside(told) == files
    assert [f.path for f in told.folders] == folders
    assert (told.unseen, cacheable(told)) == ((), "")


@LINUX
def test_a_linked_file_as_dvc_makes_it(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("store") / "abc"
    (data / "data" / "t.parquet").rename(store)
    for name in ("t.parquet", "twin.parquet"):
        (data / "data" / name).symlink_to(store)
    told = ran(data, "import pandas as pd; pd.read_parquet('data/t.parquet')")
    assert inside(told) == {"data/t.parquet", "data/twin.parquet"}
    (data / "data" / "t.parquet").unlink()
    (data / "data" / "t.parquet").write_bytes(b"")
    assert changed(told, data) == "data/t.parquet has changed"


@LINUX
def test_a_reader_that_read_elsewhere(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (data / "data" / "t.parquet").rename(outside / "t.parquet")
    cell = f"import pandas as pd; pd.read_parquet('{outside}/t.parquet')"
    assert cacheable(ran(data, cell)) == "pyarrow.parquet may have read files unseen"
    assert named([cell]) == (str(outside),)
    told = ran(data, cell, watching=repr(named([cell])))
    assert (told.of("data"), cacheable(told)) == ((str(outside / "t.parquet"),), "")
    (outside / "t.parquet").write_bytes(b"")
    assert changed(told, data) == f"{outside}/t.parquet has changed"


def test_a_folder_to_which_a_file_is_added(data: Path) -> None:
    told = ran(data, "from pathlib import Path\nfor p in Path('data').glob('*.csv'): p.read_text()")
    assert changed(told, data) == ""
    (data / "data" / "u.csv").write_text("a")
    assert changed(told, data) == "the folder data/ has other files"
    (data / "data" / "u.csv").rename(data / "u.csv")
    assert changed(told, data) == ""


def test_intermediate_files_are_no_inputs(data: Path) -> None:
    source = """
import os, tempfile, pathlib, shutil
pathlib.Path("a.txt").write_text("1"); pathlib.Path("a.txt").read_text()
with tempfile.NamedTemporaryFile("w+") as f: f.write("x"); f.flush(); open(f.name).read()
with tempfile.TemporaryDirectory() as d: shutil.copy("data/t.csv", d); open(d + "/t.csv").read(); os.listdir(d)
pathlib.Path("b.tmp").write_text("1"); os.replace("b.tmp", "b.txt"); open("b.txt").read()
try: open("c.txt").read()
except OSError: open("c.txt", "w").close()
open("c.txt").read()
open("d.txt", "a").write("x"); open("d.txt").read()
"""
    told = ran(data, source)
    assert inside(told) == {"data/t.csv"}
    assert (inside(told, "absent"), told.folders, cacheable(told)) == (set(), (), "")
    assert changed(told, data) == ""


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("open(p).close(); open(p, 'w').write('7')", "was read and then written"),
        ("open(p, 'r+').write('7')", "was read and then written"),
        ("open(p).close(); os.remove(p)", "is gone"),
        ("open(p).close(); open('n', 'w').close(); os.replace('n', p)", "was read and then written"),
        ("s = os.stat(p); open(p).close(); os.utime(p, ns=(1, 1))", "changed while it ran"),
    ],
)
def test_a_file_that_changes_under_its_hands(source: str, fault: str, data: Path) -> None:
    told = ran(data, f"import os; p = 'data/t.txt'\n{source}")
    assert cacheable(told) == f"data/t.txt {fault}"


def test_a_database_that_is_written(data: Path) -> None:
    told = ran(
        data, "import sqlite3\nc = sqlite3.connect('data/t.db')\nc.execute('insert into t values (1)'); c.commit()"
    )
    assert cacheable(told) == "data/t.db changed while it ran"
    assert (
        inside(ran(data, "import sqlite3\nsqlite3.connect(':memory:'); sqlite3.connect('file::memory:', uri=True)"))
        == set()
    )


def test_the_log_of_a_database(data: Path) -> None:
    writer = sqlite3.connect(data / "data" / "t.db")
    writer.execute("pragma journal_mode=wal")
    writer.execute("insert into t values (1)")
    writer.commit()
    told = ran(data, "import sqlite3\nprint(sqlite3.connect('data/t.db').execute('select * from t').fetchall())")
    assert inside(told) == {"data/t.db", "data/t.db-wal"}
    writer.execute("insert into t values (2)")
    writer.commit()
    assert changed(told, data) == "data/t.db-wal has changed"
    writer.close()


def test_a_file_that_is_not_there(data: Path) -> None:
    told = ran(data, "try: open('local.toml')\nexcept OSError: pass")
    assert (inside(told, "absent"), cacheable(told), changed(told, data)) == ({"local.toml"}, "", "")
    (data / "local.toml").write_text("")
    assert changed(told, data) == "local.toml was not there and is now"


def test_modules_of_the_project(data: Path) -> None:
    (data / "pack").mkdir()
    (data / "pack" / "__init__.py").write_text("")
    (data / "pack" / "part.py").write_text("x = 1\n")
    for _ in range(2):  # the second time from the compiled form
        told = ran(data, "import pack.part")
        assert inside(told, "code") == {"pack/__init__.py", "pack/part.py"}
        assert (inside(told), told.folders, changed(told, data)) == (set(), (), "")
    (data / "pack" / "part.py").write_text("x = 2\n")
    assert changed(told, data) == "pack/part.py has changed"


@pytest.fixture
def server() -> Iterator[int]:
    """A server on this machine; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found.server_port
        found.shutdown()
        thread.join()


def test_servers(data: Path, server: int) -> None:
    source = f"import urllib.request\nurllib.request.urlopen('http://localhost:{server}/').read()"
    told = ran(data, source, no_proxy="*")
    assert cacheable(told) == f"it read from 127.0.0.1:{server}"
    assert cacheable(told, f"http://localhost:{server}") == ""
    assert cacheable(told, f"http://localhost:{server + 1}") != ""
    assert cacheable(told, "sqlite:///mlflow.db") != ""
    local = "import socket, tempfile\ns = socket.socket(socket.AF_UNIX); s.bind('\\0x'); s.listen()\n"
    assert ran(data, local + "socket.socket(socket.AF_UNIX).connect('\\0x')").hosts == ()


PROGRAMS = {
    "subprocess.run(['true', '--password=secret'])": "true",
    "subprocess.run('X=1 echo secret', shell=True)": "echo",
    "os.system('true secret')": "true",
    "os.popen('echo secret').read()": "echo",
    "os.spawnlp(os.P_WAIT, 'true', 'true', 'secret')": "true",
    "os.posix_spawn('/bin/true', ['/bin/true', 'secret'], {})": "true",
}


@pytest.mark.parametrize("source", PROGRAMS)
def test_programs(source: str, data: Path) -> None:
    told = ran(data, f"import os, subprocess\n{source}")
    assert told.programs == (PROGRAMS[source],)
    assert cacheable(told) == f"it ran a program: {PROGRAMS[source]}"
    assert "secret" not in told.to_json()


def test_programs_of_libraries_that_ask_the_machine(data: Path) -> None:
    source = "import platform, joblib; platform.processor(); joblib.cpu_count(only_physical_cores=True)\n"
    source += "from deploy_ext.capture import git; from pathlib import Path; git(Path('.'))"
    assert cacheable(ran(data, source)) == ""


def test_processes(data: Path) -> None:
    fork = "import multiprocessing as m\ndef f(p): return open(p).read()\n"
    told = ran(data, fork + "with m.get_context('fork').Pool(2) as p: p.map(f, ['data/t.csv', 'data/t.txt'])")
    assert (inside(told), cacheable(told)) == ({"data/t.csv", "data/t.txt"}, "")
    parallel = "import joblib\njoblib.Parallel(2)(joblib.delayed(abs)(i) for i in (1, 2))"
    told = ran(data, parallel)
    assert cacheable(told) == "worker processes of joblib may have read files unseen"
    assert cacheable(told, trusted=told.unseen) == ""


def test_libraries_that_connect_by_themselves(data: Path) -> None:
    (data / "psycopg2.py").write_text("")
    assert cacheable(ran(data, "import psycopg2")) == "psycopg2 may have read files unseen"
    (data / "polars.py").write_text("")
    assert cacheable(ran(data, "import polars")) == "polars may have read files unseen"


@LINUX
def test_what_the_job_writes_meanwhile_is_nothing_that_a_reader_opened(data: Path) -> None:
    source = "import subprocess, pandas as pd, pyarrow.parquet, os, time\n"
    other = "open('out.ipynb', 'w').write('x'); open('out.ipynb').read(); open('.out.ipynb.x', 'w')"
    told = ran(data, f'{source}subprocess.run([{sys.executable!r}, "-c", "{other}"])')
    assert (inside(told), told.unseen[0]) == (set(), "pyarrow.parquet")


def test_the_project_as_virtual_environment(data: Path) -> None:
    told = ran(data, f"import sys; sys.prefix = {str(data)!r}; open('data/t.csv')")
    assert inside(told) == {"data/t.csv"}


def test_threads_a_removed_folder_and_strange_arguments(data: Path) -> None:
    source = """
import os, threading, tempfile
threads = [threading.Thread(target=lambda i=i: open(f"data/t.{'csv' if i % 2 else 'txt'}").read()) for i in range(40)]
[t.start() for t in threads]; [t.join() for t in threads]
for wrong in (b"\\xff\\xfe", "a\\0b", "x" * 5_000, "\\udcff", 10_000):
    try: open(wrong)
    except (OSError, ValueError): pass
os.listdir(os.open(".", os.O_RDONLY)); open("data/t.csv", opener=os.open).read()
folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)
try: open("here.txt")
except OSError: pass
try: os.listdir()
except OSError: pass
"""
    told = ran(data, source)
    assert inside(told) == {"data/t.csv", "data/t.txt"}
    assert told.unseen == ("something that could not be noted",)  # in a folder that is gone


def test_an_attempt_to_import_is_no_reader(data: Path) -> None:
    source = "for name in ('vaex', 'pymssql'):\n    try: __import__(name)\n    except ImportError: pass"
    assert ran(data, source).unseen == ()  # MLflow tries to import polars


@LINUX
def test_our_own_listing_is_none(data: Path) -> None:
    source = "import os, pandas as pd\npd.read_parquet('data/t.parquet')\nos.mkdir('new')\n"
    source += "while not any(p.endswith('new') for p in list(LOGS[0].opened.folders.values())): pass"
    assert ran(data, source).folders == ()


def test_watch_twice_and_not_at_all(data: Path) -> None:
    told = ran(data, "watch(); watch()\nopen('data/t.csv')\nassert len(LOGS) == 1")
    assert inside(told) == {"data/t.csv"}
    with pytest.raises(InvalidRequest, match="watch"):
        report()


def test_the_import_is_cheap() -> None:
    script = "import sys, deploy_ext.watching\n"
    script += "print([m for m in sys.modules if m.startswith('deploy_ext')], 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.strip() == "['deploy_ext', 'deploy_ext.core', 'deploy_ext.inotify', 'deploy_ext.watching'] False"


def test_the_memory(data: Path) -> None:
    memory, file = data / "memory.json", data / "data" / "t.csv"
    os.utime(file, (1, 1))
    first = ran(data, "open('data/t.csv')", memory)
    assert ran(data, "open('data/t.csv')", memory).files == first.files
    known = json.loads(memory.read_text())
    stamp = known["files"][str(file)]
    assert stamp[3] == csv(first).sha256 == digest(file)
    known["files"][str(file)][3] = "remembered"
    memory.write_text(json.dumps(known))
    assert csv(ran(data, "open('data/t.csv')", memory)).sha256 == "remembered"
    file.write_text("x")
    assert csv(ran(data, "open('data/t.csv')", memory)).sha256 == digest(file)
    assert str(file) not in json.loads(memory.read_text())["files"], "changed just now: not safe to remember"
    for broken in ("", "[]", "{", '{"format": 2, "files": {}}', '{"format": 1}', '{"format": 1, "files": 3}'):
        memory.write_text(broken)
        assert csv(ran(data, "open('data/t.csv')", memory)).sha256 == digest(file)


def test_another_checkout(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    told = ran(data, "import pandas as pd; pd.read_csv('data/t.csv'); open('data/t.txt')")
    other = tmp_path_factory.mktemp("other")
    (other / "data").mkdir()
    for name in ("t.csv", "t.txt"):
        (other / "data" / name).write_bytes((data / "data" / name).read_bytes())
    assert changed(told, other) == ""
    (other / "data" / "t.txt").unlink()
    assert changed(told, other) == "data/t.txt is gone"


def test_the_same_size_and_other_content(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("one")
    told = ran(tmp_path, "open('x')")
    file.write_text("two")
    assert changed(told, tmp_path) == "x has changed"
    file.write_text("one")
    assert changed(told, tmp_path) == ""
    file.unlink()
    file.mkdir()
    assert changed(told, tmp_path) == "x is gone"


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(files=st.dictionaries(NAMES, st.binary(max_size=20)), more=st.data())
def test_a_record_survives_json_and_tells_what_differs(
    files: dict[str, bytes], more: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    read = []
    for i, content in enumerate(files.values()):
        (folder / str(i)).write_bytes(content)
        read.append(Read(str(i), "data", len(content), hashlib.sha256(content).hexdigest(), 1, 1))
    told = Reads(str(folder), tuple(read), (Folder("a", "b", 1),), *[tuple(files)] * 3)
    assert Reads.from_dict(json.loads(told.to_json())) == told
    assert repr(told) and told._repr_html_()
    told = dataclasses.replace(told, folders=())
    assert changed(told, folder) == ""
    if read:
        which = more.draw(st.integers(0, len(read) - 1))
        (folder / str(which)).write_bytes(b"x" + (folder / str(which)).read_bytes())
        assert changed(told, folder) == f"{which} has changed"


KEEP = "import pickle\nfrom deploy_ext.watching import noted, take_up\n"


def test_two_kernels_of_one_run(data: Path) -> None:
    """What the first has read counts as it was then, in whatever way it was read."""
    read = "open('data/t.csv'); open('data/t.txt'); open('made', 'w')"
    read += "; import pandas as pd; pd.read_parquet('data/t.parquet')"
    ran(data, f"{KEEP}{read}\npickle.dump(noted(), open('notes', 'wb'))")
    on = f"{KEEP}take_up(pickle.load(open('notes', 'rb')))\nopen('made').close(); import os; os.listdir('data')"
    both = ran(data, on)
    assert inside(both) == {"data/t.csv", "data/t.txt", "data/t.parquet", "notes"}
    assert [f.path for f in both.folders] == ["data"] and cacheable(both) == ""
    (data / "data" / "t.csv").write_text("x")
    assert cacheable(ran(data, f"{on}\nopen('data/t.csv')")) == "data/t.csv changed while it ran"
