"""The file of rates: what is wrong in it is said in one line, before anything is computed with it."""

import json
from collections.abc import Callable
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from app.core.charges import ChargesDataError, load_charges
from app.core.charges.data import SourceKind

TEXT = (resources.files("app.core.charges") / "assets" / "charges.json").read_text()


def test_the_file_that_comes_with_the_service() -> None:
    data = load_charges()
    assert (data.first, data.last) == (date(2024, 10, 1), date(2027, 3, 31))
    assert set(data.brokers) == {"none", "paper", "angelone", "zerodha", "upstox", "groww"}
    # Nothing of the specification's table is a matter of memory.
    newest = [rows[-1] for table in (data.stt, data.stamp) for rows in table.values()]
    newest += [rows[-1] for rows in data.transaction["NSE"].values()]  # type: ignore[index]
    assert {data.sources[row.source].kind for row in newest} == {SourceKind.SPECIFICATION}
    used = set(_sources(json.loads(TEXT)))
    assert used == set(data.sources)


def _sources(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["source"]] if "since" in part else []
        return own + [name for value in part.values() for name in _sources(value)]
    return [name for value in part for name in _sources(value)] if isinstance(part, list) else []


def _set(*path: Any) -> Callable[[Any], None]:
    *way, last, value = path

    def change(part: Any) -> None:
        for step in way:
            part = part[step]
        part[last] = value

    return change


PLAN = ("brokers", "groww", "brokerage", "delivery", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("first", "2028-01-01"), "ends before it begins"),
        (_set("surprise", 1), "unknown field `surprise`"),
        (_set("stt", "delivery", 0, "buy", "much"), "Invalid decimal string"),
        (_set("stt", "delivery", 0, "buy", "-0.1"), "stt for delivery since 2024-10-01: buy is not a number from zero"),
        (_set("stt", "delivery", 0, "buy", "NaN"), "buy is not a number"),
        (_set("gst", 0, "percent", "1800"), "percent is over a hundred"),
        (lambda data: data.pop("exercise"), "missing required field `exercise`"),
        (_set("exercise", 0, "percent", "-1"), "exercise since 2024-10-01: percent is not a number from zero"),
        (_set("gst", []), "gst must be known from 2024-10-01 on"),
        (_set("gst", 0, "since", "2024-10-02"), "gst must be known from 2024-10-01 on"),
        (_set("stt", "options", 1, "since", "2024-10-01"), "stt for options must be in order"),
        (_set("stt", "options", 1, "since", "2027-04-01"), "not after 2027-03-31"),
        (_set("sebi", 0, "source", "hearsay"), "there is no source called hearsay"),
        (lambda data: data["stamp"].pop("futures"), "stamp lacks futures"),
        (_set("stamp", "mtf", []), "stamp knows no mtf"),
        (lambda data: data["transaction"].pop("BSE"), "transaction lacks BSE"),
        (lambda data: data["transaction"]["BSE"].pop("options"), "transaction of BSE lacks options"),
        (lambda data: data["brokers"].pop("none"), "no broker called none"),
        (lambda data: data["brokers"]["groww"]["brokerage"].pop("mtf"), "brokerage of groww lacks mtf"),
        (_set(*PLAN, "flat", "20"), "either flat or percent"),
        (_set("brokers", "none", "brokerage", "mtf", 0, "most", "1"), "what is flat has no bounds"),
        (_set(*PLAN, "least", "30"), "least is more than most"),
        (_set("brokers", "upstox", "mtf_interest", 0, "slab", "0"), "slab (over zero) and a_day"),
        (_set("brokers", "upstox", "mtf_interest", 0, "percent_a_year", "10"), "either percent_a_year"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    data = json.loads(TEXT)
    change(data)
    file = tmp_path / "charges.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ChargesDataError) as caught:
        load_charges(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ChargesDataError, match="cannot be read: No such file"):
        load_charges(tmp_path / "none.json")
    (tmp_path / "broken.json").write_bytes(b'{"version": "\xff')
    with pytest.raises(ChargesDataError, match="data is wrong"):
        load_charges(tmp_path / "broken.json")
