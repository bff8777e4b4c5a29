"""Kernels that are killed with SIGKILL, and what a fresh one makes of the checkpoint."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import SECONDS, Kernel, ask, kernel

from deploy_ext import checkpoint
from deploy_ext.core import InvalidRequest

NOTEBOOK = [
    "import numpy as np, pandas as pd\nimport random\nnp.random.seed(11); random.seed(4)\n%load_ext autoreload",
    "from sklearn.ensemble import RandomForestClassifier\n"
    "frame = pd.DataFrame(np.random.normal(size=(3_000, 12)), columns=list('abcdefghijkl'))\n"
    "late = frame['a'] + np.random.normal(size=len(frame)) > 0",
    "forest = RandomForestClassifier(8)\n"
    "def scores():\n    return model.predict_proba(frame)[:, 1]\n"
    "part = frame.assign(m=1.0)",
    "model = forest.fit(frame, late)\npart.loc[0, 'a'] = 7.0",
    "np.random.shuffle(frame['b'].to_numpy(copy=True))\nnoise = np.random.normal(size=50), random.random()",
    "forest2 = RandomForestClassifier(4).fit(frame, late)\n"
    "result = [*scores(), *forest2.predict_proba(frame)[:, 0], *noise[0], noise[1], frame['a'][0], part['a'][0]]",
]
LAST = len(NOTEBOOK) - 1


def hidden(k: Kernel, call: str) -> Any:
    """The record of a function of the room, called in the kernel as a job does."""
    return json.loads(ask(k, f"__import__('deploy_ext.checkpoint').checkpoint.{call}.to_json()"))


def save(k: Kernel, folder: Path, cell: int) -> Any:
    return hidden(k, f"save(get_ipython(), {str(folder)!r}, {cell})")


def restore(k: Kernel, folder: Path, cell: int | None = None, first: str = "") -> Any:
    return hidden(k, f"restore(get_ipython(), {str(folder)!r}, {cell}, {first!r})")


def kill(k: Kernel) -> None:
    k.manager.signal_kernel(signal.SIGKILL)
    k.client.stop_channels()


def values(k: Kernel) -> list[float]:
    return ast.literal_eval(k.run("[float(x).hex() for x in result]").text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What the notebook gives when nothing is saved and nothing is killed."""
    with kernel(tmp_path_factory.mktemp("whole")) as k:
        for source in NOTEBOOK:
            k.run(source)
        return values(k)


@pytest.mark.parametrize("at", [0, 3, LAST - 1])
def test_a_killed_notebook_ends_with_the_same_predictions(at: int, whole: list[float], tmp_path: Path) -> None:
    with kernel(tmp_path) as k:
        for i, source in enumerate(NOTEBOOK[: at + 1]):
            k.run(source)
            saved = save(k, tmp_path / "state", i)
            assert saved["kept"], saved
        k.client.execute(NOTEBOOK[at + 1] + "\nwhile True: pass")  # it dies within a cell
        kill(k)
    digests = checkpoint.digests(NOTEBOOK)
    first = checkpoint.plan(checkpoint.read(tmp_path / "state"), digests, digests)
    assert first == at + 1
    with kernel(tmp_path) as k:
        told = restore(k, tmp_path / "state", first - 1, checkpoint.replay(NOTEBOOK[:first]))
        assert (told["cell"], told["notes"], told["changed"]) == (at, [], [])
        assert ask(k, "get_ipython().execution_count") == at + 2
        for source in NOTEBOOK[first:]:
            k.run(source)
        assert values(k) == whole


# Each: cells before the kill, cells after it, and what must be true then.
LIVES = """
=== a global changed later
limit = 1
def over(x): return x > limit
--- after
limit = 5
--- holds
not over(3)
=== a lambda
base = 1
add = lambda x: x + base
--- after
base = 10
--- holds
add(1) == 11
=== a method
rate = 1
class Till:
    def pay(self): return rate
till = Till()
--- after
rate = 3
--- holds
till.pay() == 3
=== globals()
space = globals()
--- after
later = 4
--- holds
space['later'] == 4
space is globals()
=== a closure
step = 1
def counter():
    n = 0
    def up():
        nonlocal n
        n += step
        return n
    return up
up = counter(); up()
--- after
step = 10
--- holds
up() == 11
=== a decorator
import functools
calls = []
def noted(f):
    @functools.wraps(f)
    def inner(*a):
        calls.append(f.__name__); return f(*a)
    return inner
@noted
def twice(x): return 2 * x
--- after
twice(4)
--- holds
calls == ['twice']
twice.__wrapped__(2) == 4
=== recursion
def fact(n): return 1 if n < 2 else n * fact(n - 1)
--- after

--- holds
fact(5) == 120
=== mutual recursion
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n and even(n - 1)
--- after

--- holds
even(6)
not even(5)
=== a class
class Car:
    wheels = 4
class Van(Car):
    def __init__(self): super().__init__(); self.load = [self]
van = Van()
--- after
import pickle
--- holds
isinstance(van, Van)
isinstance(Van(), Car)
van.load[0] is van
type(pickle.loads(pickle.dumps(van))) is Van
=== a dataclass
from dataclasses import dataclass, field, asdict, replace
@dataclass(frozen=True, slots=True)
class P:
    x: int
    y: list = field(default_factory=list)
p = P(1)
--- after
q = replace(p, x=2)
--- holds
P(1) == p
asdict(q) == {'x': 2, 'y': []}
hash(P.__name__) is not None
=== an enum
from enum import Enum, IntFlag, auto
class Color(Enum):
    RED = 1
    BLUE = 2
    def says(self): return self.name.lower()
class F(IntFlag):
    A = auto()
    B = auto()
x = {'c': [Color.RED]}; flags = F.A | F.B
--- after

--- holds
x['c'][0] is Color.RED
Color(2) is Color.BLUE
Color.RED.says() == 'red'
flags == F.A | F.B
Color['RED'] is Color.RED
=== tuples with names
from collections import namedtuple
from typing import NamedTuple
A = namedtuple('A', 'x y')
class B(NamedTuple):
    x: int = 1
ab = A(1, 2), B()
--- after

--- holds
ab == (A(1, 2), B(1))
type(ab[0]) is A
ab[1]._replace(x=3).x == 3
=== functools
from functools import partial, lru_cache, cached_property, singledispatch
factor = 2
@lru_cache(maxsize=7)
def slow(x): return x * factor
slow(1)
half = partial(slow, 4)
@lru_cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
--- after
factor = 3
--- holds
slow(5) == 15
half() == 12
slow.cache_info().maxsize == 7
fib(30) == 832040
=== generics
from typing import Generic, TypeVar, NewType, Protocol, TypedDict
from abc import ABC, abstractmethod
T = TypeVar('T')
class Box(Generic[T]):
    def __init__(self, v: T): self.v = v
Km = NewType('Km', float)
box = Box[int](3)
class Shape(ABC):
    @abstractmethod
    def area(self): ...
class Sq(Shape):
    def area(self): return 4
class Row(TypedDict):
    a: int
class Has(Protocol):
    v: int
sq = Sq()
--- after

--- holds
isinstance(box, Box)
Box[str]('a').v == 'a'
Km(3) == 3
isinstance(sq, Shape)
Row(a=1) == {'a': 1}
Km.__supertype__ is float
=== properties
class Temp:
    def __init__(self): self._c = 20
    @property
    def f(self): return self._c * scale + 32
    @classmethod
    def make(cls): return cls()
    @staticmethod
    def unit(): return 'C'
    def __getattr__(self, n):
        if n.startswith('_'): raise AttributeError(n)
        return n
scale = 1.8
temp = Temp.make()
--- after
scale = 2
--- holds
temp.f == 72
Temp.unit() == 'C'
temp.any == 'any'
=== shared objects
one = [1]; two = one; box3 = {'in': one}; one.append(one)
--- after
two.append(9)
--- holds
one[-1] == 9
box3['in'] is two
one[1] is one
=== views of numpy
import numpy as np
table = np.arange(200_000.).reshape(-1, 4)
column = table[:, 1]; back = table[::-1]; fort = np.asfortranarray(table); row = fort[3]
whole_a, whole_b = np.split(np.arange(10), 2)
bits = table[:2].view('i8')
frozen = table[:3]
frozen.flags.writeable = False
--- after
table *= 2; fort[3, 0] = -1; whole_a[:] = 0
--- holds
column[0] == 2
back[-1, 1] == 2
row[0] == -1
list(whole_b) == [5, 6, 7, 8, 9]
bits.dtype == 'i8'
not frozen.flags.writeable
frozen[0, 1] == 2
=== frames that share memory
import pandas as pd
day = pd.DataFrame({'d': pd.date_range('2020', periods=3), 'c': pd.Categorical(list('aba'))})
day = day.assign(s=list('xyz'), n=range(3))
day2 = day.rename(columns=str); n = day['n']; index = pd.Index(day['n'])
long = pd.DataFrame({'v': [1.0] * 100_000}); long2 = long.assign(w=2)
--- after
day2.loc[0, 'd'] = pd.Timestamp('1999')
day2.loc[0, 'c'] = 'b'
day2.loc[0, 's'] = 'Q'
day2.loc[0, 'n'] = 7
n.iloc[1] = 70
long2.loc[0, 'v'] = 5
--- holds
day['d'][0].year == 2020
day['c'][0] == 'a'
day['s'][0] == 'x'
list(day['n']) == [0, 1, 2]
list(index) == [0, 1, 2]
long['v'][0] == 1
=== a pipeline with a class of the notebook
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import make_pipeline
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import FunctionTransformer
shift = 0.0
class Shift(TransformerMixin, BaseEstimator):
    def __init__(self, by=1): self.by = by
    def fit(self, X, y=None): return self
    def transform(self, X): return X + self.by + shift
Xs = np.arange(9.).reshape(-1, 1)
pipe = make_pipeline(Shift(2), FunctionTransformer(lambda v: v * 2), LinearRegression()).fit(Xs, Xs[:, 0])
--- after
from sklearn.base import clone
was = pipe.predict(Xs)[0]; shift = 1.0
--- holds
abs(was) < 1e-9
abs(pipe.predict(Xs)[0] - 1) < 1e-9
type(clone(pipe)[0]) is Shift
=== a pydantic model
from pydantic import BaseModel
class Conf(BaseModel):
    rate: float = 0.1
conf = Conf(rate='3')
--- after

--- holds
conf.rate == 3.0
isinstance(conf, Conf)
Conf().rate == 0.1
=== generators of random numbers
import numpy as np, random
from random import random as draw, shuffle
from numpy.random import rand, RandomState
from sklearn.utils import check_random_state
glob = check_random_state(None)
own = random.Random(3)
rng = np.random.default_rng(1)
rng2 = rng
rng.random()
--- after
random.seed(8)
a = draw()
random.seed(8)
b = random.random()
np.random.seed(2)
c = rand()
np.random.seed(2)
d = glob.rand()
--- holds
a == b
c == d
rng is rng2
own.random() == random.Random(3).random()
=== what has ended
import os, threading, zipfile, tempfile
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
with open(os.devnull) as fh: pass
with ThreadPoolExecutor() as pool: pool.submit(int).result()
th = threading.Thread(target=int); th.start(); th.join()
gen = (i for i in range(2)); list(gen)
with tempfile.TemporaryFile() as tf: pass
with tempfile.NamedTemporaryFile() as ntf: pass
import io, gzip
with gzip.open(io.BytesIO(), 'w') as gz: pass
buf = io.BytesIO(b'abc'); buf.read(1)
from tqdm.auto import tqdm
from tqdm.std import tqdm as plain
bar = plain(range(3))
for _ in bar: pass
--- after

--- holds
fh.closed
list(gen) == []
th.closed
buf.read() == b'bc'
tf.closed
gz.closed
'ended' in repr(pool)
=== what only seems bound to its kernel
import functools, weakref, deploy_ext, sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec
PS = ParamSpec('PS')
with ThreadPoolExecutor() as ex:
    futures = [ex.submit(int, '4'), ex.submit(int, 'x')]
    failed = futures[1].exception()
class Lazy:
    @functools.cached_property
    def n(self): return grade
    @functools.lru_cache
    def m(self): return __class__
lazy, grade = Lazy(), 1
ref = weakref.ref(lazy)
@functools.singledispatch
def told(x): return 'any'
@told.register
def _(x: int): return 'int'
con = sqlite3.connect(':memory:')
con.close()
told(1)
--- after
grade = 9
--- holds
futures[0].result() == 4
isinstance(futures[1].exception(), ValueError)
lazy.n == 9
lazy.m() is Lazy
ref() is lazy
told(3) == 'int'
told('') == 'any'
deploy_ext.__name__ == 'deploy_ext'
con.closed
=== iterators
it = iter([1, 2, 3])
next(it)
it2 = it
zipped = zip(it, 'ab')
keys = iter({'a': 1, 'b': 2})
next(keys)
mv = memoryview(bytearray(b'xyz'))
--- after

--- holds
next(it2) == 2
next(zipped) == (3, 'a')
next(keys) == 'b'
bytes(mv[1:]) == b'yz'
=== the shell
shell = get_ipython(); import sys; out = sys.stdout; where = get_ipython
def tell(): return get_ipython(), display
import __main__ as main
--- after

--- holds
shell is get_ipython()
out is sys.stdout
tell()[0] is shell
main.shell is shell
where() is shell
=== options
import pandas as pd, numpy as np, warnings, matplotlib, sklearn
pd.options.display.max_rows = 7
np.seterr(under='raise')
sklearn.set_config(transform_output='pandas')
warnings.filterwarnings('error', 'no way')
matplotlib.rcParams['axes.titlesize'] = 31.0
--- after
said = None
try:
    warnings.warn('no way')
except UserWarning as e:
    said = str(e)
--- holds
pd.options.display.max_rows == 7
np.geterr()['under'] == 'raise'
said == 'no way'
matplotlib.rcParams['axes.titlesize'] == 31.0
sklearn.get_config()['transform_output'] == 'pandas'
=== folder and environment
import os, sys
os.makedirs('sub', exist_ok=True)
os.chdir('sub')
open('helper_xyz.py', 'w').write('class H: n = 1\\n')
sys.path.insert(0, os.getcwd())
import helper_xyz
h = helper_xyz.H()
os.environ['MY_MODE'] = 'fast'
os.environ['DEPLOY_EXT_SECRET_KEY'] = 'hunter2'
os.environ.pop('HOME', None)
--- after

--- holds
os.path.basename(os.getcwd()) == 'sub'
type(h) is helper_xyz.H
os.environ['MY_MODE'] == 'fast'
'HOME' not in os.environ
=== a notebook's own names
_hidden = 3; open_ = 1; exit = 'way'
--- after

--- holds
_hidden == 3
exit == 'way'
=== a figure
import matplotlib.pyplot as plt
fig, ax = plt.subplots(); _ = ax.plot([1, 2])
--- after

--- holds
len(ax.lines) == 1
ax.figure is fig
"""


def part(life: str) -> tuple[str, str, list[str]]:
    before, after, holds = re.split(r"\n--- \w+\n", life)
    return before, after.strip(), holds.strip().split("\n")


PARTS = {life.split("\n")[0]: part(life.split("\n", 1)[1]) for life in LIVES.split("=== ")[1:]}


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that took up what another one had made of all the first cells, before it was killed; twice."""
    folder = tmp_path_factory.mktemp("lives")
    with kernel(folder) as k:
        hidden(k, "read('.')")  # the room is imported before the first cell, as by a job
        for i, (before, *_) in enumerate(PARTS.values()):
            k.run(before)
            saved = save(k, folder / "state", i)
            assert saved["kept"], (before, saved["reasons"], saved["problem"])
        kill(k)
    assert not any(b"hunter2" in path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file())
    first, last = checkpoint.replay([before for before, *_ in PARTS.values()]), len(PARTS) - 1
    with kernel(folder) as k:
        told = restore(k, folder / "state", None, first)
        assert (told["cell"], told["notes"]) == (last, [])
        saved = save(k, folder / "state", last + 1)
        assert saved["kept"], saved
        kill(k)
    with kernel(folder) as k:
        told = restore(k, folder / "state", None, first)
        assert (told["cell"], told["notes"]) == (last + 1, [])
        yield k


@pytest.mark.parametrize("life", PARTS)
def test_it_lives_on(life: str, lives: Kernel) -> None:
    _, after, holds = PARTS[life]
    lives.run(after)
    assert [line for line in holds if lives.run(f"bool({line})").text != "True"] == []


UNTOUCHED = """
import random, os, warnings, numpy as np
class Draws:
    def __reduce__(self):
        random.random(); np.random.rand(); warnings.warn('from a pickle')
        return Draws, ()
draws = Draws()
def look():
    ip = get_ipython()
    drawn = random.getstate(), np.random.get_state()[1].tolist()
    session = sorted(globals()), len(In), sorted(Out), _, __, ip.execution_count
    return repr((drawn, session, warnings.filters, os.getcwd(), sorted(os.environ)))
def noisy():
    warnings.warn('only once')
noisy()
7
"""


def test_a_save_disturbs_nothing(tmp_path: Path) -> None:
    with kernel(tmp_path) as k:
        k.run(UNTOUCHED)
        hidden(k, "read('.')")
        modules = "sorted(__import__('sys').modules)"
        before, known = ask(k, "look()"), ask(k, modules)
        assert save(k, tmp_path / "state", 0)["kept"]
        assert ask(k, "look()") == before
        assert {name.split(".")[0] for name in ask(k, modules) if name not in known} <= {"cloudpickle"}
        registry = "repr(__warningregistry__)"
        version = ask(k, registry)
        k.run("noisy()")  # a warning that was shown is not shown again
        assert ask(k, registry) == version and "only once" in version


@dataclass
class Shell:
    """A shell for what needs no kernel."""

    user_ns: dict[str, Any]
    user_ns_hidden: dict[str, Any] = field(default_factory=dict)
    execution_count: int = 1

    def run_cell(self, source: str, **_: Any) -> Any:
        try:
            exec(source, self.user_ns)
        except Exception as e:
            return types.SimpleNamespace(error_before_exec=None, error_in_exec=e)
        return types.SimpleNamespace(error_before_exec=None, error_in_exec=None)


def shell(*cells: str, **values: Any) -> Shell:
    made = Shell({"__name__": "__main__", **values})
    for source in cells:
        exec(source, made.user_ns)
    return made


def again(folder: Path, *values: Any) -> Any:
    """The values after a save and a restore."""
    saved = checkpoint.save(shell(values=values), folder, 0)
    assert saved.kept, saved
    fresh = shell()
    assert checkpoint.restore(fresh, folder).cell == 0
    return fresh.user_ns["values"]


def test_an_edited_notebook_resumes_before_the_edit(tmp_path: Path) -> None:
    old = ["a = 1", "b = [a]", "c = b + [2]", "d = sum(c)"]
    new = ["a = 1", "b = [a]", "c = b + [20]", "d = sum(c)"]
    ip = shell()
    for i, source in enumerate(old):
        ip.run_cell(source)
        assert checkpoint.save(ip, tmp_path, i).kept
    state = checkpoint.read(tmp_path)
    first = checkpoint.plan(state, checkpoint.digests(old), checkpoint.digests(new))
    assert (first, checkpoint.plan(state, checkpoint.digests(old), checkpoint.digests(["", *old]))) == (2, 0)
    fresh = shell()
    assert checkpoint.restore(fresh, tmp_path, first - 1).cell == 1
    assert [c.cell for c in checkpoint.read(tmp_path).checkpoints] == [0, 1]  # the others were of the old cells
    assert "c" not in fresh.user_ns
    for source in new[first:]:
        fresh.run_cell(source)
    assert fresh.user_ns["d"] == 21


def columns() -> pd.DataFrame:
    made: dict[str, Any] = {
        "f": np.arange(4.0),
        "b": [True] * 4,
        "c": pd.Categorical(list("abab")),
        "s": list("abcd"),
        "i": pd.array([1, 2, 3, None], dtype="Int64"),
        "d": pd.date_range("2020", periods=4),
        "z": pd.date_range("2020", periods=4, tz="UTC"),
        "t": pd.timedelta_range("1D", periods=4),
        "p": pd.period_range("2020", periods=4, freq="D"),
        "v": pd.interval_range(0, 4),
        "o": [[], {}, 1, "x"],
    }
    return pd.DataFrame(made)


NEW: dict[str, Any] = {"f": 9.0, "b": False, "c": "b", "s": "z", "i": 9, "d": pd.Timestamp("1999")}
NEW |= {"z": pd.Timestamp("1999", tz="UTC"), "t": pd.Timedelta("9D"), "p": pd.Period("1999", "D"), "o": 5}
NEW |= {"v": pd.Interval(7, 8)}
LAZY = {
    "rename": lambda a: a.rename(columns=str),
    "assign": lambda a: a.assign(more=1),
    "drop": lambda a: a.drop(columns=[]),
    "iloc": lambda a: a.iloc[:],
    "reset_index": lambda a: a.reset_index(drop=True),
}


@pytest.mark.parametrize("how", LAZY)
def test_a_change_of_one_frame_never_reaches_another(how: str, tmp_path: Path) -> None:
    frame = columns()
    one, other = again(tmp_path, frame, LAZY[how](frame))
    pd.testing.assert_frame_equal(one, frame)
    for name, value in NEW.items():
        other.loc[0, name] = value
    pd.testing.assert_frame_equal(one, columns())


@pytest.mark.parametrize("name", NEW)
def test_nor_from_a_series_to_its_frame_or_index(name: str, tmp_path: Path) -> None:
    frame = columns()
    index = pd.Index(frame[name])
    whole, column, kept, series = again(tmp_path, frame, frame[name], index, pd.Series(index))
    column.iloc[0] = series.iloc[0] = NEW[name]
    pd.testing.assert_frame_equal(whole, columns())
    pd.testing.assert_index_equal(kept, pd.Index(columns()[name]))


CANNOT = {
    "an open file": "x = open('/dev/null')",
    "an open file to write": "x = open('/dev/null', 'wb')",
    "a generator": "x = (i for i in range(3)); next(x)",
    "a coroutine": "async def f(): pass\nx = f()",
    "a lock": "import threading; x = threading.Lock()",
    "an open socket": "import socket; x = socket.socket()",
    "a database connection": "import sqlite3; x = sqlite3.connect(':memory:')",
    "a running process": "import subprocess as s\nx = s.Popen(['cat'], stdin=s.PIPE)",
    "a running thread": "import threading\nx = threading.Timer(600, print); x.start()",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor; x = ThreadPoolExecutor(1)",
    "a temporary folder, which goes with its kernel": "import tempfile; x = tempfile.TemporaryDirectory()",
    "an array that writes into a file": "import numpy\nx = numpy.memmap('mapped', mode='w+', shape=3)",
    "a list that holds a generator": "x = [{1: (i for i in range(3))}]",
    "a function that holds an open file": "def made(f=open('/dev/null')):\n    return lambda: f\nx = made(); del made",
    "a Keeps that holds a lock": "import threading\nclass Keeps: pass\nx = Keeps(); x.lock = threading.RLock()",
    "a Rude (Odd: never)": "class Odd(BaseException): pass\n"
    "class Rude:\n    def __reduce__(self): raise Odd('never')\nx = Rude()",
    "a Mute (Mum)": "class Mum(Exception):\n    def __str__(self): raise ValueError\n"
    "class Mute:\n    def __reduce__(self): raise Mum\nx = Mute()",
    "a Disk (OSError: [Errno 28] full)": "class Disk:\n    def __reduce__(self): raise OSError(28, 'full')\nx = Disk()",
    "a list that is nested too deeply": "x = []\nfor _ in range(100_000): x = [x]",
}


@pytest.mark.parametrize("words", CANNOT)
def test_what_cannot_be_kept_is_named_and_the_last_state_stays(words: str, tmp_path: Path) -> None:
    ip = shell("y = 1")
    assert checkpoint.save(ip, tmp_path, 0).kept
    exec(CANNOT[words], ip.user_ns)
    try:
        told = checkpoint.save(ip, tmp_path, 1)
        assert list(told.reasons) == ["x"]
        assert told.reasons["x"].replace(" (/dev/null)", "") == words.removesuffix(" to write")
        assert (told.kept, told.last, told.problem) == (False, 0, "") and told.why.startswith("`x`, a")
        fresh = shell()
        assert checkpoint.restore(fresh, tmp_path).cell == 0 and fresh.user_ns["y"] == 1
    finally:
        x = ip.user_ns.pop("x")
        for end in ("close", "kill", "cleanup", "shutdown", "cancel"):
            with contextlib.suppress(TypeError):  # a socket's shutdown wants more
                getattr(x, end, lambda: None)()
        for last in ("communicate", "join"):
            getattr(x, last, lambda: None)()
        while isinstance(x, list) and x:  # a hundred thousand lists within each other
            x = x.pop()
    assert checkpoint.save(ip, tmp_path, 3).kept  # the object is gone


def test_a_checkpoint_that_failed_leaves_nothing(tmp_path: Path) -> None:
    ip = shell("a = 1")
    assert checkpoint.save(ip, tmp_path, 0).kept
    whole = sorted(tmp_path.rglob("*"))
    exec("big = [1.0]; late = (i for i in 'ab')", ip.user_ns)
    ip.user_ns |= {"big": np.zeros(100_000), "after": (i for i in "ab")}
    for i in (1, 2):
        told = checkpoint.save(ip, tmp_path, i)
        assert set(told.reasons) == {"late", "after"} and sorted(tmp_path.rglob("*")) == whole
    del ip.user_ns["late"]
    assert set(checkpoint.save(ip, tmp_path, 3).reasons) == {"after"}
    ip.user_ns["after"] = 1
    assert checkpoint.save(ip, tmp_path, 4).kept


def test_an_mlflow_run_that_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    ip = shell(client=mlflow.MlflowClient())
    with mlflow.start_run(experiment_id="0") as run:
        assert "MLflow run" in checkpoint.save(ip, tmp_path / "state", 0).problem
    ip.user_ns["run"] = run
    assert checkpoint.save(ip, tmp_path / "state", 1).kept


def test_what_could_not_be_kept_is_not_used_up(tmp_path: Path) -> None:
    ip = shell("x = (i for i in range(3)); next(x); z = zip('ab', 'cd'); m = map(str, [1, 2])")
    assert not checkpoint.save(ip, tmp_path, 0).kept
    assert [list(ip.user_ns[name]) for name in "xzm"] == [[1, 2], [("a", "c"), ("b", "d")], ["1", "2"]]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_an_interrupt(stop: type[BaseException], tmp_path: Path) -> None:
    ip = shell("class Slow:\n    def __reduce__(self): raise stop\nx = Slow()", stop=stop)
    with pytest.raises(stop):
        checkpoint.save(ip, tmp_path, 0)
    assert list((tmp_path / "blobs").iterdir()) == [] and not list(tmp_path.glob("*.part"))


def test_a_frame_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    ip = shell(frame=pd.DataFrame(np.random.default_rng(0).normal(size=(50_000, 10))))
    ip.user_ns["same"] = ip.user_ns["frame"].rename(columns=str)
    first = checkpoint.save(ip, tmp_path, 0)
    blobs = {path: path.stat().st_mtime_ns for path in (tmp_path / "blobs").iterdir()}
    second = checkpoint.save(ip, tmp_path, 1)
    assert 4e6 <= first.written < 5e6 and len(blobs) == 1  # once for both
    assert second.written < 50_000 < second.size
    assert blobs == {path: path.stat().st_mtime_ns for path in (tmp_path / "blobs").iterdir()}
    ip.user_ns["frame"].iloc[0, 0] = 3.0
    assert checkpoint.save(ip, tmp_path, 2).written > 4e6


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "state"
    checkpoint.save(shell(a=np.zeros(100_000)), folder, 0)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600} and len([*folder.rglob("*")]) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "blobs")} == {0o700}


FULL = """
import json, numpy, resource, sys, types
from deploy_ext import checkpoint
ip = types.SimpleNamespace(user_ns={"x": 1}, user_ns_hidden={}, execution_count=1)
told = [checkpoint.save(ip, sys.argv[1], 0)]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for i, x in enumerate((bytes(2_000_000), numpy.ones(1_000_000), 2), 1):
    ip.user_ns["x"] = x
    told.append(checkpoint.save(ip, sys.argv[1], i))
print(json.dumps([s.to_dict() for s in told]))
"""


def test_a_disk_that_takes_no_more_ends_nothing(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 0, run.stderr
    first, *failed, last = json.loads(run.stdout)
    assert first["kept"] and last["kept"] and len(failed) == 2
    for told in failed:
        assert not told["kept"] and "too large" in told["problem"] and told["last"] == 0 and told["reasons"] == {}
    assert not any(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        told = checkpoint.save(shell(x=1), folder, 0)
        assert not told.kept and told.last is None and str(folder) in told.problem


def test_limits(tmp_path: Path) -> None:
    ip = shell()
    for i in range(8):
        ip.user_ns["a"] = np.full(100_000, float(i))
        assert checkpoint.save(ip, tmp_path, i, keep=5, limit=2.5e6).kept
    assert [c.cell for c in checkpoint.read(tmp_path).checkpoints][-1] == 7
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 2.6e6
    ip.user_ns["a"] = np.zeros(1_000_000)
    told = checkpoint.save(ip, tmp_path, 8, limit=2.5e6)
    assert "0.0025 GB" in told.problem and told.last == 7
    for i in range(9, 30):
        checkpoint.save(shell(i=i), tmp_path, i, keep=3)
    assert len(checkpoint.read(tmp_path).checkpoints) == 3 and len([*tmp_path.glob("*.pkl")]) == 3


WRITES = """
import sys, types, numpy
from deploy_ext import checkpoint
ip = types.SimpleNamespace(user_ns={}, user_ns_hidden={}, execution_count=1)
for i in range(1000):
    ip.user_ns |= {"i": i, "a": numpy.full(2_000_000, float(i)), "b": [i] * 100_000}
    checkpoint.save(ip, sys.argv[1], i, keep=3)
    print(i, flush=True)
"""


@pytest.mark.parametrize("later", range(5))
def test_killed_within_a_save(later: int, tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(later + 1):
        done = int(writer.stdout.readline())
    seen = 0
    while seen <= later * 5:  # it dies while it writes, each time a little later
        seen += seen > 0 or any(tmp_path.rglob("*.part"))
    writer.kill()
    done = max([done, *map(int, writer.communicate()[0].split())])
    fresh = shell()
    told = checkpoint.restore(fresh, tmp_path)
    assert told.cell is not None and told.cell >= done and told.notes == ()
    i, a, b = (fresh.user_ns[name] for name in "iab")
    assert i == told.cell and (a == i).all() and b == [i] * 100_000
    assert checkpoint.save(fresh, tmp_path, i + 1).kept and not any(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("what", ["*.pkl", "blobs/*"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_passed_over(what: str, how: str, tmp_path: Path) -> None:
    for i in range(2):
        assert checkpoint.save(shell(i=i, a=np.full(100_000, float(i))), tmp_path, i).kept
    newest = checkpoint.read(tmp_path).checkpoints[-1]
    path = tmp_path / (newest.pickle if what == "*.pkl" else f"blobs/{newest.blobs[0]}")
    data = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(data[:-9] + (b"" if how == "cut" else b"123456789"))
    fresh = shell()
    told = checkpoint.restore(fresh, tmp_path)
    assert told.cell == 0 and "after cell 1" in told.notes[0] and fresh.user_ns["i"] == 0


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert checkpoint.save(shell(i=1), tmp_path, 0).kept
    (tmp_path / checkpoint.STATE).write_text("{")
    assert checkpoint.restore(shell(), tmp_path).cell is None
    (tmp_path / checkpoint.STATE).write_text('{"format": 2}')
    with pytest.raises(InvalidRequest, match="Upgrade"):
        checkpoint.read(tmp_path)
    assert "Upgrade" in checkpoint.save(shell(i=1), tmp_path, 0).problem


def test_what_needs_a_module_that_is_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone_by_then.py").write_text("class A: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert checkpoint.save(shell("import gone_by_then; a = gone_by_then.A()"), tmp_path / "state", 0).kept
    (tmp_path / "gone_by_then.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    monkeypatch.delitem(sys.modules, "gone_by_then")
    fresh = shell(mine=1)
    before = {k: v for k, v in fresh.user_ns.items() if k != "__builtins__"}
    with pytest.raises(InvalidRequest, match="the module 'gone_by_then'"):
        checkpoint.restore(fresh, tmp_path / "state")
    with pytest.raises(InvalidRequest, match="No module named 'not_here'"):
        checkpoint.restore(fresh, tmp_path / "state", first="import not_here")
    assert {k: v for k, v in fresh.user_ns.items() if k != "__builtins__"} == before


def test_another_python_is_refused_and_another_package_told(tmp_path: Path) -> None:
    assert checkpoint.save(shell(i=1), tmp_path, 0).kept
    path = tmp_path / checkpoint.STATE
    data = json.loads(path.read_text())
    data["checkpoints"][0]["packages"]["numpy"] = "1.0"
    path.write_text(json.dumps(data))
    assert checkpoint.restore(shell(), tmp_path).changed == (f"numpy 1.0 -> {np.__version__}",)
    data["checkpoints"][0]["python"] = "3.2.1"
    path.write_text(json.dumps(data))
    with pytest.raises(InvalidRequest, match=r"Python 3\.2\.1"):
        checkpoint.restore(shell(), tmp_path)


def test_a_run_from_the_start_forgets_another_ones(tmp_path: Path) -> None:
    for i in range(3):
        assert checkpoint.save(shell(i=i), tmp_path, i).kept
    assert not checkpoint.save(shell("g = (i for i in 'ab')"), tmp_path, 1).kept
    assert [c.cell for c in checkpoint.read(tmp_path).checkpoints] == [0]


def test_the_import_is_cheap() -> None:
    heavy = ("numpy", "pandas", "cloudpickle", "IPython", "pydantic")
    source = f"import sys, deploy_ext.checkpoint; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=SECONDS)
    assert run.stdout == "[]\n", run.stderr


CELLS = st.lists(st.text("ab \n", max_size=3), max_size=8)


@given(CELLS, CELLS, st.sets(st.integers(0, 7)))
def test_a_plan_never_uses_what_an_edit_touched(old: list[str], new: list[str], kept: set[int]) -> None:
    new = [*old[: len(old) // 2], *new]
    state = checkpoint.State(tuple(checkpoint.Checkpoint(k, "", "", (), 0, "") for k in sorted(kept) if k < len(old)))
    first = checkpoint.plan(state, checkpoint.digests(old), checkpoint.digests(new))
    usable = [c.cell for c in state.checkpoints if old[: c.cell + 1] == new[: c.cell + 1]]
    assert first == max(usable, default=-1) + 1


@given(st.lists(st.integers(0, 200)), st.integers(1, 30))
def test_thin(cells: list[int], keep: int) -> None:
    left = checkpoint.thin(cells, keep)
    assert left == sorted(set(left)) and set(left) <= set(cells)
    assert len(left) == min(keep, len(set(cells))) and (not cells or left[-1] == max(cells))


@given(st.integers(30, 120))
def test_thinned_as_they_come_the_old_are_there_too(count: int) -> None:
    left: list[int] = []
    for k in range(count):
        left = checkpoint.thin([*left, k], checkpoint.KEEP)
    gaps = [b - a for a, b in zip([-1, *left], left, strict=False)]
    assert gaps[-1] == 1 and max(gaps) <= 2 + count / 3 and left[0] <= count / 3


TRIED = "try:\n    import a\nexcept ImportError:\n    a = None"
REPLAYED = {
    "import numpy as np": ["import numpy as np"],
    "from os import (\n  path,\n  sep)\nx = path": ["from os import path, sep"],
    "%load_ext deploy_ext": ["%load_ext deploy_ext"],
    "  %matplotlib inline\nx = 1": ["%matplotlib inline"],
    "%autoreload 2\n%pip install x\n!pip install y\n%cd /\n%run other.ipynb": ["%autoreload 2"],
    "%%time\nimport a": ["import a"],
    "\n%%capture out\nimport a\n!ls": ["import a"],
    "%%bash\nimport a": [],
    "%%writefile x.py\nimport a": [],
    "%time import a": ["import a"],
    "%time x = f(\n  1)": [],
    "%timeit import a": [],
    "x = !ls\nimport a": ["import a"],
    "a, b = !ls\ny['k'] = %env HOME\nimport a": ["import a"],
    "df?\n?df\nnp.mean??\nimport a": ["import a"],
    "if x:\n    !ls\n    %load_ext deeper\nimport a": ["import a"],
    "text = '''\n%load_ext no\nimport no\n'''": [],
    "text = '''\n%load_ext no\n'''\n!ls\nimport a": ["import a"],
    TRIED: TRIED.split("\n"),
    "try:\n    import a\n    run()\nexcept ImportError:\n    pass": [],
    "def f():\n    import a": [],
    "x = 1\nfrom __future__ import annotations": ["from __future__ import annotations"],
    ", f a b\nimport a\nfrom b import (\n c)\n%load_ext d": ["import a", "from b import c", "%load_ext d"],
    "!ls \\\n  -l\nimport a": ["import a"],
    "": [],
    "%": [],
    "%%": [],
    "__replayed_line__(3)": [],
}


@pytest.mark.parametrize("source", REPLAYED)
def test_replay(source: str) -> None:
    assert checkpoint.replay([source]).splitlines() == REPLAYED[source]


@given(st.lists(st.sampled_from([*REPLAYED]), max_size=8))
def test_replay_of_many_cells(cells: list[str]) -> None:
    lines = checkpoint.replay(cells).split("\n")
    ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    assert {line for line in lines if line} == {line for source in cells for line in REPLAYED[source]}


@given(st.lists(st.text() | st.text("%!?=x \n('\"#import\\\0", max_size=30), max_size=3))
def test_replay_takes_any_text(cells: list[str]) -> None:
    assert isinstance(checkpoint.replay(cells), str)
