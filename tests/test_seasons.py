"""A year of retraining, month by month: what the gates refuse, and what somebody sees of it afterwards."""

from __future__ import annotations

import json
from calendar import month_name
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
from months import LAST, Month, project, retrain, say, table

REFUSED = {3: "roc_auc", 7: "roc_auc", 9: "f1", 10: "f1"}  # month -> the gate that it does not pass

pytestmark = pytest.mark.slow


@dataclass
class Year:
    """The months so far, in one project."""

    folder: Path
    months: dict[int, Month] = field(default_factory=dict)

    def to(self, number: int) -> Month:
        """A month; what is before it comes first."""
        for n in range(1, number + 1):
            if n not in self.months:
                self.months[n] = retrain(self.folder, n)
        return self.months[number]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    return Year(project(tmp_path_factory.mktemp("year")))


@pytest.mark.parametrize("number", range(1, LAST + 1), ids=lambda n: month_name[n])
def test_a_month(year: Year, number: int) -> None:
    before, month = year.to(number - 1).champion if number > 1 else "", year.to(number)
    told = month.told
    assert told["version"] == f"flights/{number}" and not told["cached"] and told["ran"] == told["cells"] == 7, told
    cases = {c.get("name"): c for c in ElementTree.parse(Path(told["folder"]) / "junit.xml").iter("testcase")}
    if number in REFUSED:
        assert (month.code, told["outcome"], month.champion) == (3, "refused", before), table([month])
        assert REFUSED[number] in told["told"] and month.why.startswith(REFUSED[number]), told["told"]
        assert [name for name, case in cases.items() if case.find("failure") is not None], cases
    else:
        assert (month.code, told["outcome"], month.champion) == (0, "promoted", told["version"]), table([month])
        assert month.why == "" and month.figure >= (month.other or 0.851) - 0.001
        assert (month.other is None) == (number == 1)  # the first has nobody to be compared with


@pytest.mark.parametrize("number", [1, 3], ids=lambda n: month_name[n])
def test_a_month_that_was_done_is_answered(year: Year, number: int) -> None:
    done = year.to(3) and year.months[number]
    again = retrain(year.folder, number)
    same = ("outcome", "version", "job", "figures", "exit_code")
    assert again.told["cached"] and {k: again.told[k] for k in same} == {k: done.told[k] for k in same}
    assert again.code == done.code and again.seconds < done.seconds / 2


def test_december_has_nothing_after_it(year: Year) -> None:
    before = year.to(LAST).champion
    code, out, _ = say(year.folder, "retrain", "retrain.ipynb", "-p", "start=2013-12-01", "--promote", "--json")
    assert code == 5 and "there are no flights from 2014-01-01 to before 2014-02-01" in json.loads(out)["told"]
    history = json.loads(say(year.folder, "history", "flights", "--verify", "--json")[1])
    promoted = [f"flights/{e['to']}" for e in history["items"] if e["what"] == "promote"]
    assert promoted[-1] == before and len(promoted) == LAST - len(REFUSED)


def test_history_shows_the_year(year: Year) -> None:
    year.to(LAST)
    print("\n" + table(year.months.values()))
    _, out, _ = say(year.folder, "history", "flights", "--verify", "--json")
    events = json.loads(out)["items"]
    by = {what: [(e["to"], e["reason"]) for e in events if e["what"] == what] for what in {e["what"] for e in events}}
    every = [str(n) for n in range(1, LAST + 1)]
    assert [to for to, _ in by["register"]] == every
    assert [to for to, reason in by["validate"] if reason != "passed"] == [str(n) for n in REFUSED], by["validate"]
    assert [to for to, _ in by["promote"]] == [n for n in every if int(n) not in REFUSED]
    text = say(year.folder, "history", "flights", "--verify")[1]
    assert text.count("promote") == LAST - len(REFUSED) and "is whole" in text, text
