"""Trading days, sessions, phases and the bars of candles."""

import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import exchange_calendars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.market_calendar import DAY, IST, MarketCalendar, Phase, SessionKind, Window
from app.core.market_days import CalendarDataError, load_calendar
from tests.support.clocks import StandingClock

CALENDAR = MarketCalendar(StandingClock(datetime(2026, 11, 20, 6, 0, tzinfo=UTC)))
FIRST, LAST = CALENDAR.first, CALENDAR.last
DAYS = st.dates(date(2023, 6, 1), date(2028, 6, 1))
MOMENTS = st.datetimes(datetime(2023, 6, 1), datetime(2028, 6, 1), timezones=st.just(UTC))  # noqa: DTZ001 (its bounds)
# Most moments lie within trading hours, where the rules are.
TRADING = st.builds(
    lambda day, ms: datetime.combine(day, time(9), IST) + timedelta(milliseconds=ms),
    st.dates(FIRST, LAST),
    st.integers(0, 7 * 3_600_000),
)
LENGTHS = st.sampled_from([1, 3, 5, 10, 15, 30, 60, 240]).map(lambda minutes: timedelta(minutes=minutes)) | st.just(DAY)


def ist(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+05:30")


def ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# The data


# Of exchange_calendars' own use of pandas.
@pytest.mark.filterwarnings("ignore:Series.values returning:DeprecationWarning")
def test_weekday_closures_are_those_of_an_independent_calendar():
    theirs = exchange_calendars.get_calendar("XBOM", start=FIRST.isoformat(), end=LAST.isoformat())
    their_days = {session.date() for session in theirs.sessions}
    sessions = {session.day: session for session in CALENDAR.sessions(FIRST, LAST)}

    assert len(their_days) > 700
    assert their_days <= sessions.keys()
    # What we have beyond theirs are special sessions: weekends, and Muhurat on a holiday.
    assert sessions.keys() - their_days == {row.day for row in load_calendar().sessions if row.windows} - their_days
    for day in their_days:
        opening, close = theirs.session_open_close(day.isoformat())
        assert (sessions[day].opens, sessions[day].closes) == (opening.to_pydatetime(), close.to_pydatetime())


def test_closures_are_weekdays_and_2026_has_sixteen():
    data = load_calendar()

    assert sum(row.day.year == 2026 for row in data.closures) == 16
    assert [row for row in (*data.closures, *data.expected_closures) if row.day.weekday() >= 5] == []
    assert data.sources
    assert data.version == CALENDAR.version


@pytest.mark.parametrize(
    ("day", "kind", "windows"),
    [
        ("2026-02-01", SessionKind.SPECIAL, [("09:15", "15:30")]),  # a Sunday
        ("2025-02-01", SessionKind.SPECIAL, [("09:15", "15:30")]),  # a Saturday
        ("2024-03-02", SessionKind.SPECIAL, [("09:15", "10:00"), ("11:30", "12:30")]),
        ("2025-10-21", SessionKind.MUHURAT, [("13:45", "14:45")]),
        ("2026-11-20", SessionKind.REGULAR, [("09:15", "15:30")]),
    ],
)
def test_sessions(day: str, kind: SessionKind, windows: list[tuple[str, str]]):
    session = CALENDAR.session_of(date.fromisoformat(day))

    assert session is not None
    assert session.kind is kind
    assert session.published
    assert list(session.windows) == [Window(ist(f"{day} {opens}"), ist(f"{day} {closes}")) for opens, closes in windows]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": "2027-01-01"}, "ends before it begins"),
        ({"hours": []}, "hours must be there"),
        ({"closures": [{"day": "2025-05-01", "name": "x"}, {"day": "2025-05-01", "name": "y"}]}, "each day once"),
        ({"closures": [{"day": "2029-05-01", "name": "x"}]}, "must lie between"),
        ({"expected_closures": [{"day": "2026-05-01", "name": "x"}]}, "must lie between"),
        ({"closures": [{"day": "1 May", "name": "x"}]}, "closures"),
        ({"unknown": 1}, "unknown"),
        (
            {
                "sessions": [
                    {"day": "2025-10-21", "kind": "muhurat", "name": "x", "windows": [["14:00:00", "13:00:00"]]},
                ]
            },
            "in no order",
        ),
    ],
)
def test_wrong_data_is_refused_with_a_reason(tmp_path: Path, change: dict[str, object], words: str):
    own = tmp_path / "calendar.json"
    asset = Path(__file__).parents[2] / "app/core/assets/market_calendar.json"
    own.write_text(json.dumps({**json.loads(asset.read_text()), **change}))

    with pytest.raises(CalendarDataError, match=words):
        load_calendar(own)


def test_a_missing_or_broken_file_is_refused_with_a_reason(tmp_path: Path):
    with pytest.raises(CalendarDataError, match="cannot be read"):
        load_calendar(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"version": ')
    with pytest.raises(CalendarDataError, match="is wrong"):
        load_calendar(tmp_path / "half.json")


def test_an_operators_newer_file_replaces_the_data(tmp_path: Path):
    asset = json.loads((Path(__file__).parents[2] / "app/core/assets/market_calendar.json").read_text())
    asset |= {"last": "2027-12-31", "expected_closures": [], "version": "mine"}
    asset["closures"].append({"day": "2027-01-26", "name": "Republic Day"})
    asset["hours"].append(
        {
            "since": "2027-02-01",
            "pre_open": "09:00:00",
            "opens": "09:15:00",
            "closes": "15:35:00",
            "post_close": "16:00:00",
        }
    )
    (tmp_path / "own.json").write_text(json.dumps(asset))
    calendar = MarketCalendar(StandingClock(), load_calendar(tmp_path / "own.json"))

    assert calendar.version == "mine"
    assert calendar.covers(date(2027, 6, 1))
    assert calendar.state(ist("2027-01-26 10:00")).certain
    assert calendar.is_open(ist("2027-02-01 15:32"))
    assert not calendar.is_open(ist("2027-01-29 15:32"))


# Open or not


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-20 09:14:59.999", False),
        ("2026-11-20 09:15:00", True),
        ("2026-11-20 15:29:59.999", True),
        ("2026-11-20 15:30:00", False),
        ("2026-11-21 12:00:00", False),  # a Saturday
        ("2026-11-24 12:00:00", False),  # a holiday
        ("2026-02-01 12:00:00", True),
        ("2025-10-21 12:00:00", False),
        ("2025-10-21 13:45:00", True),
        ("2024-03-02 11:00:00", False),
        ("2024-03-02 11:30:00", True),
        ("2026-11-08 18:30:00", False),  # Muhurat, hours not known
    ],
)
def test_is_open(moment: str, is_open: bool):
    assert CALENDAR.is_open(ist(moment)) is is_open


def test_now_comes_from_the_clock():
    clock = StandingClock(ist("2026-11-20 09:00").astimezone(UTC))
    calendar = MarketCalendar(clock)

    assert not calendar.is_open()
    assert calendar.state().phase is Phase.PRE_OPEN
    assert calendar.next_open().at == ist("2026-11-20 09:15")
    clock.move(minutes=15)
    assert calendar.is_open()
    assert calendar.state().phase is Phase.OPEN
    assert calendar.next_open().at == ist("2026-11-23 09:15")


@settings(max_examples=60, deadline=None)
@given(st.lists(TRADING | MOMENTS, min_size=1, max_size=30))
def test_what_was_asked_before_does_not_matter(moments: list[datetime]):
    used = MarketCalendar(StandingClock())
    for moment in moments:
        session = used.session_of(moment.astimezone(IST).date())
        assert used.is_open(moment) == (session is not None and any(moment in window for window in session.windows))


def test_asking_about_a_closed_time_says_nothing_about_the_trading_beside_it():
    questions = [
        ("08:00", False),
        ("16:00", False),
        ("09:30", True),
        ("11:00", False),
        ("12:29", True),
        ("12:30", False),
    ]
    for first, first_answer in questions:
        for second, second_answer in questions:
            calendar = MarketCalendar(StandingClock())
            assert calendar.is_open(ist(f"2024-03-02 {first}")) is first_answer
            assert calendar.is_open(ist(f"2024-03-02 {second}")) is second_answer


def test_a_window_is_half_open():
    session = CALENDAR.session_of(date(2026, 11, 20))
    assert session is not None
    assert session.opens in session.windows[0]
    assert session.closes not in session.windows[0]


@given(st.integers() | st.integers(-(2**63), 2**63 - 1))
def test_any_number_is_a_question(number: int):
    calendar = MarketCalendar(StandingClock())

    answer = calendar.is_open_at(number)
    assert calendar.is_open_at(number) is answer
    assert not answer or 631_000_000_000 < number < 7_260_000_000_000
    assert (calendar.bar_at(number, 60_000) is not None) is answer


def test_it_remembers_a_bounded_number_of_days():
    calendar = MarketCalendar(StandingClock())
    for day in range(5_000):
        calendar.is_open_at(ms(ist("2010-01-01 12:00")) + day * 86_400_000)

    assert len(calendar._known) <= 1_024


# Phases


@given(MOMENTS | TRADING)
def test_a_phase_holds_between_its_bounds_and_only_there(moment: datetime):
    state = CALENDAR.state(moment)
    step = timedelta(milliseconds=1)

    assert state.since <= moment < state.until
    assert (state.phase is Phase.OPEN) is CALENDAR.is_open(moment)
    for inside in (state.since, state.until - step):
        other = CALENDAR.state(inside)
        assert (other.phase, other.since, other.until) == (state.phase, state.since, state.until)
    assert CALENDAR.state(state.until).since == state.until
    assert CALENDAR.state(state.since - step).until == state.since


@given(MOMENTS | TRADING)
def test_the_next_opening_is_the_first_one_later(moment: datetime):
    opening = CALENDAR.next_open(moment)

    assert opening.at > moment
    assert opening.at in {window.opens for window in opening.session.windows}
    assert CALENDAR.is_open(opening.at)
    assert not CALENDAR.is_open(opening.at - timedelta(milliseconds=1))
    day = moment.astimezone(IST).date()
    between = [window.opens for s in CALENDAR.sessions(day, opening.session.day) for window in s.windows]
    assert not [other for other in between if moment < other < opening.at]
    assert CALENDAR.state(moment).next_open == opening


@pytest.mark.parametrize(
    ("moment", "phase", "since", "until"),
    [
        ("2026-11-20 08:00", Phase.CLOSED, "2026-11-19 16:00", "2026-11-20 09:00"),
        ("2026-11-20 09:00", Phase.PRE_OPEN, "2026-11-20 09:00", "2026-11-20 09:15"),
        ("2026-11-20 12:00", Phase.OPEN, "2026-11-20 09:15", "2026-11-20 15:30"),
        ("2026-11-20 15:30", Phase.POST_CLOSE, "2026-11-20 15:30", "2026-11-20 16:00"),
        ("2026-11-20 16:00", Phase.CLOSED, "2026-11-20 16:00", "2026-11-23 09:00"),
        ("2024-03-02 10:30", Phase.CLOSED, "2024-03-02 10:00", "2024-03-02 11:30"),
        ("2024-11-01 18:30", Phase.OPEN, "2024-11-01 18:00", "2024-11-01 19:00"),
    ],
)
def test_phases(moment: str, phase: Phase, since: str, until: str):
    state = CALENDAR.state(ist(moment))

    assert (state.phase, state.since, state.until) == (phase, ist(since), ist(until))
    assert state.certain


def test_holidays_have_their_names():
    assert CALENDAR.state(ist("2026-11-24 12:00")).note == "Guru Nanak Jayanti"
    assert CALENDAR.state(ist("2026-11-20 12:00")).note is None
    assert CALENDAR.state(ist("2026-02-01 12:00")).note == "Union Budget on a Sunday"


# What is not known


def test_beyond_its_data_it_says_that_it_assumes():
    state = CALENDAR.state(ist("2027-03-01 12:00"))
    assert (state.phase, state.certain) == (Phase.OPEN, False)
    assert state.note is not None
    assert "31 Dec 2026" in state.note
    assert state.session is not None
    assert not state.session.published

    assert not CALENDAR.state(ist("2027-03-06 12:00")).certain  # a Saturday: there may be a special session
    assert not CALENDAR.state(ist("2023-12-29 12:00")).certain
    assert not CALENDAR.next_open(ist("2026-12-31 16:00")).session.published

    expected = CALENDAR.state(ist("2027-01-26 12:00"))
    assert (expected.phase, expected.certain) == (Phase.CLOSED, False)
    assert expected.note is not None
    assert "Republic Day" in expected.note


@given(DAYS)
def test_what_is_published_lies_within_the_data(day: date):
    session = CALENDAR.session_of(day)

    assert CALENDAR.covers(day) is (FIRST <= day <= LAST)
    assert session is None or session.published is CALENDAR.covers(day)


def test_a_session_whose_hours_are_not_known_is_no_guess():
    state = CALENDAR.state(ist("2026-11-08 18:15"))

    assert state.session is None
    assert (state.phase, state.certain) == (Phase.CLOSED, False)
    assert state.note is not None
    assert "hours are not" in state.note


# Bars


@given(DAYS, LENGTHS)
def test_bars_tile_a_session_from_its_opening(day: date, length: timedelta):
    session = CALENDAR.session_of(day)
    if session is None:
        return
    bars = CALENDAR.bars_of(session, length)

    assert (bars[0].opens, bars[-1].closes) == (session.opens, session.closes)
    if length == DAY:
        assert len(bars) == 1
        return
    for window in session.windows:
        inside = [bar for bar in bars if bar.opens in window]
        assert [bar.opens for bar in inside] == [window.opens + length * i for i in range(len(inside))]
        assert [bar.closes for bar in inside] == [*(bar.opens for bar in inside[1:]), window.closes]


@given(TRADING, LENGTHS)
def test_a_moment_falls_into_its_bar_or_the_market_is_closed(moment: datetime, length: timedelta):
    bar = CALENDAR.bar_of(moment, length)

    assert (bar is not None) is CALENDAR.is_open(moment)
    if bar is not None:
        session = CALENDAR.session_of(moment.astimezone(IST).date())
        assert session is not None
        assert moment in bar
        assert bar in CALENDAR.bars_of(session, length)


@pytest.mark.parametrize(
    ("moment", "minutes", "opens", "closes"),
    [
        ("2026-11-20 09:59", 30, "09:45", "10:15"),
        ("2026-11-20 10:14", 60, "09:15", "10:15"),
        ("2026-11-20 15:29", 60, "15:15", "15:30"),
        ("2026-11-20 15:29", 1, "15:29", "15:30"),
        ("2026-11-20 12:07", 5, "12:05", "12:10"),
        ("2026-11-20 12:00", 1440, "09:15", "15:30"),
        ("2024-03-02 11:59", 30, "11:30", "12:00"),
        ("2024-03-02 11:59", 1440, "09:15", "12:30"),
        ("2025-10-21 14:40", 60, "13:45", "14:45"),
    ],
)
def test_bars(moment: str, minutes: int, opens: str, closes: str):
    day = moment[:10]

    assert CALENDAR.bar_of(ist(moment), timedelta(minutes=minutes)) == Window(
        ist(f"{day} {opens}"), ist(f"{day} {closes}")
    )


@pytest.mark.parametrize("length", [timedelta(0), timedelta(minutes=-1), timedelta(days=1, milliseconds=1)])
def test_bars_of_no_length_are_refused(length: timedelta):
    session = CALENDAR.session_of(date(2026, 11, 20))
    assert session is not None
    with pytest.raises(ValueError, match="a bar is"):
        CALENDAR.bar_of(ist("2026-11-20 12:00"), length)
    with pytest.raises(ValueError, match="a bar is"):
        CALENDAR.bars_of(session, length)
