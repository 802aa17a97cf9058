"""The host's rules beyond what was recorded: routes, constraints, queries, text as an answer, schedules, its own routes."""

import json
from datetime import UTC, datetime

import pytest

from dev.host_admin import known
from dev.host_answers import answer_of
from dev.host_constraints import constraint
from dev.host_routes import Template, decoded, encoded, normalized, query
from dev.host_timer import Schedule


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("", "/", {}),
        ("", "/a", None),
        ("a/b", "/A/B", {}),
        ("/a/b/", "/a/b/", {}),
        ("a", "//a", None),
        ("a", "/a//", None),
        ("{x}", "/", None),
        ("{x}/b", "/1/b", {"x": "1"}),
        ("{x?}", "/", {}),
        ("{x?}", "/1", {"x": "1"}),
        ("a/{x:int?}", "/a", {}),
        ("a/{x:int?}", "/a/b", None),
        ("a/{x=1}", "/a", {"x": "1"}),
        ("a/{x:int=b}", "/a", None),
        ("a/{x=1}/{y=2}", "/a/3", {"x": "3", "y": "2"}),
        ("a/{x=1}/b", "/a", None),
        ("a/{*x}", "/a", {}),
        ("a/{*x}", "/a/", {}),
        ("a/{*x}", "/a/b/", {"x": "b/"}),
        ("a/{*x}", "/a/b//c", {"x": "b//c"}),
        ("a/{*x}", "/a//b", None),
        ("a/{**x}", "/a/b/c", {"x": "b/c"}),
        ("a/{*x=1}", "/a", {"x": "1"}),
        ("a/{*x:minlength(2)}", "/a", None),
        ("a/{*x:minlength(2)}", "/a/b/c", {"x": "b/c"}),
        ("{n}.{e}", "/a.b.c", {"n": "a.b", "e": "c"}),
        ("{n}.{e}", "/a", None),
        ("{n}.{e?}", "/a.txt", {"n": "a", "e": "txt"}),
        ("{n}.{e?}", "/a", {"n": "a"}),
        ("{n}.{e?}", "/a.", None),
        ("v{n:int}-x", "/V12-X", {"n": "12"}),
        ("a{x}", "/aba", {"x": "ba"}),
        ("a{x}", "/aab", None),
        ("a{x}", "/a", None),
        ("{x}ab{y}", "/xabyab", {"x": "x", "y": "yab"}),
        ("{x}b", "/abb", {"x": "ab"}),
        ("x{n}.{e?}", "/xa.b", {"n": "a", "e": "b"}),
        ("{a}-{b}-{c}", "/1-2-3-4", {"a": "1-2", "b": "3", "c": "4"}),
        ("{{a}}/{b}", "/{a}/1", {"b": "1"}),
        (r"{x:regex(^\d{{3}}$)}", "/123", {"x": "123"}),
        (r"{x:regex(^\d{{3}}$)}", "/1234", None),
        (r"{x:regex(^(a|b)$):length(1)}", "/B", {"x": "B"}),
        ("{x:int:range(1,5)}", "/5", {"x": "5"}),
        ("{x:int:range(1,5)}", "/6", None),
        ("{x:length(2,3)}", "/abcd", None),
    ],
)
def test_templates(template: str, path: str, values: dict[str, str] | None) -> None:
    """A template fits a path as ASP.NET Core says, and gives these parameters."""
    assert Template(template).match(path) == values


@pytest.mark.parametrize(
    "template",
    [
        "{",
        "a}",
        "{}",
        "{x",
        "a//b",
        "{x}{y}",
        "{x}/{X}",
        "{*x}/a",
        "a{*x}",
        "{*x?}",
        "{x=1?}",
        "{x?}a",
        "{x:int?}-{y?}",
        "a?",
        "{x:nothing}",
        "{x:min(a)}",
        "{x:range(1)}",
    ],
)
def test_templates_that_are_none(template: str) -> None:
    """What ASP.NET Core refuses is refused, whatever the path."""
    with pytest.raises(ValueError):
        Template(template)


@pytest.mark.parametrize(
    ("name", "arguments", "good", "bad"),
    [
        ("int", "", ["0", "-1", "+1", " 7 ", "2147483647"], ["", "a", "1.0", "2147483648", "1,000", "٣"]),
        ("LONG", "", ["2147483648", "-9223372036854775808"], ["9223372036854775808"]),
        ("decimal", "", ["1", "1.5", ".5", "1,000.5", "1-"], ["1e5", "a", "", "99999999999999999999999999999999"]),
        ("double", "", ["1", "1e5", "-1.5E-3", "NaN", "Infinity", "1."], ["e5", "1e", "", "0x1"]),
        ("float", "", ["1.5"], ["x"]),
        ("bool", "", ["true", "FALSE", " True "], ["1", "yes", ""]),
        (
            "guid",
            "",
            ["8f0ce1a61bd64bfa8a2a1d8a0f5a4c11", "{8F0CE1A6-1bd6-4bfa-8a2a-1d8a0f5a4c11}"],
            ["8f0ce1a6-1bd64bfa8a2a1d8a0f5a4c11", "{8f0ce1a6-1bd6-4bfa-8a2a-1d8a0f5a4c11", ""],
        ),
        (
            "datetime",
            "",
            ["2026-11-23", "2026-11-23T10:00:00Z", "2026-11-23 7:30pm".replace("pm", " pm")],
            ["x", "2026-13-01", ""],
        ),
        ("alpha", "", ["abC", ""], ["a1", "é"]),
        ("required", "", ["a"], [""]),
        ("minlength", "2", ["ab"], ["a"]),
        ("maxlength", "2", ["ab"], ["abc"]),
        ("length", "2", ["ab"], ["a", "abc"]),
        ("min", "2", ["2"], ["1", "a"]),
        ("max", "2", ["2"], ["3"]),
        ("regex", "b", ["abc", "B"], ["ac"]),
        ("file", "", ["a.txt", "a/.b"], ["a", "a."]),
        ("nonfile", "", ["a", "a.b/c"], ["a.txt"]),
    ],
)
def test_constraints(name: str, arguments: str, good: list[str], bad: list[str]) -> None:
    """A constraint accepts what .NET would parse and nothing else."""
    check = constraint(name, arguments)
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


def test_paths() -> None:
    """Dot segments go, encoded or not; everything is decoded once except slashes and what is no UTF-8."""
    assert normalized("/a/./b/../c") == "/a/c"
    assert normalized("/a/%2E%2e/%2e/c/..") == "/"
    assert decoded("/a%20%C3%A9%2F%FF%2541") == "/a é%2F%FF%41"
    assert encoded("/a%20b/%7Ec|%zz") == "/a%20b/~c%7C%25zz"


def test_query() -> None:
    """Names ignore case, repeats are joined, empty values are dropped, ``+`` is a space, invalid UTF-8 stays."""
    assert query("a=1&A=2&b=&c&=x&d=+%FF&d=&&d=3") == {"A": "1,2", "": "x", "d": " %FF,3"}


@pytest.mark.parametrize(
    ("text", "status", "body"),
    [
        ("plain", 200, "plain"),
        ("  ", 200, ""),
        ("null", 200, ""),
        ("true", 200, "True"),
        ("1.0", 200, "1"),
        ("1.5", 200, "1.5"),
        ('{"a": 1}', 200, '{\n  "a": 1\n}'),
        ('{"Body": "x", "StatusCode": "404"}', 404, "x"),
        ('{"body": "x", "status": true}', 200, "x"),
        ('{"body": {"a": [1]}}', 200, '{"a":[1]}'),
        ('{"body": null, "headers": null}', 200, ""),
        ("{'body': 'x', status: 404,} // .NET", 404, "x"),
        ("{a: [1,], 'b': {}, c: []}", 200, '{\n  "a": [\n    1\n  ],\n  "b": {},\n  "c": []\n}'),
        ("{'a': 1.0, 'b': null, 'c': \"\\u00e9'\\n\"}", 200, '{\n  "a": 1.0,\n  "b": null,\n  "c": "é\'\\n"\n}'),
        ('{"body": [1]}', 200, "System.Collections.Generic.List`1[System.Object]"),
        ("[1] x", 200, "[1] x"),
        ("{a 1}", 200, "{a 1}"),
        ("2026-11-23", 200, "2026-11-23"),
        ('"\\x"', 200, '"\\x"'),
        ("[" * 65 + "]" * 65, 200, "[" * 65 + "]" * 65),
        ("undefined", 200, ""),
        ("010", 200, "8"),
        ("0x1F", 200, "31"),
        ("08", 200, "08"),
        ("1e15", 200, "1E+15"),
        ("-0.00001", 200, "-1E-05"),
        ("999999999999999.0", 200, "999999999999999"),
    ],
)
def test_text_as_an_answer(text: str, status: int, body: str) -> None:
    """Text that is JSON is read as JSON, and as a whole response where it has a body: why a function returns none."""
    answer = answer_of(text)
    assert (answer.status, answer.body.decode()) == (status, body)
    assert answer.headers == (("Content-Type", "text/plain; charset=utf-8"),)


def test_text_sets_headers() -> None:
    """Headers in such text become the response's, and one without a value fails."""
    said = {"body": "", "headers": {"Content-Type": "text/css; charset=latin-1", "X-Number": 5}}
    assert dict(answer_of(json.dumps(said)).headers) == {"Content-Type": "text/css; charset=utf-8", "X-Number": "5"}
    said = {"body": "", "headers": {"content-type": "text/html"}}
    assert dict(answer_of(json.dumps(said)).headers) == {"content-type": "text/html; charset=utf-8"}
    with pytest.raises(ValueError):
        answer_of('{"body": "", "headers": {"X-A": null}}')


@pytest.mark.parametrize(
    ("schedule", "then"),
    [
        ("* * * * * *", "2026-11-23T10:20:31"),
        ("0 */15 * * * *", "2026-11-23T10:30:00"),
        ("*/5 * * * *", "2026-11-23T10:25:00"),
        ("0 0 0 1 1 *", "2027-01-01T00:00:00"),
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ("30 5/20 8-10 * * *", "2026-11-23T10:25:30"),
        ("0 0 9 * * Mon-Fri", "2026-11-24T09:00:00"),
        ("0 0 9 * Dec Sun,3", "2026-12-02T09:00:00"),
        ("0 0 9 * * 0", "2026-11-29T09:00:00"),
        ("0 0 9 * January monday", "2027-01-04T09:00:00"),
        ("0 0 12-10 * * *", "2026-11-23T11:00:00"),
        ("31 5/1 * * * *", "2026-11-23T11:05:31"),
        ("*/0 * * * * *", "2026-11-23T10:20:31"),
        ("01:00:00", "2026-11-23T11:20:30"),
        ("1.00:00:30", "2026-11-24T10:21:00"),
        ("00:30", "2026-11-23T10:50:30"),
    ],
)
def test_schedules(schedule: str, then: str) -> None:
    """The first moment after Monday, 23 November 2026, 10:20:30."""
    start = datetime(2026, 11, 23, 10, 20, 30, tzinfo=UTC)
    assert Schedule(schedule).after(start) == datetime.fromisoformat(then).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "60 * * * * *", "a * * * * *", "* * * 0 * *", "25:00:00", "00:00:00", "0 0 9 * * x"]
)
def test_schedules_that_are_none(schedule: str) -> None:
    """A malformed schedule is refused."""
    with pytest.raises(ValueError):
        Schedule(schedule)


def test_the_hosts_own_routes() -> None:
    """Only what the host has, and only by its methods, asks for a key; the rest is 404."""
    assert known("GET", "admin/host/status")
    assert known("POST", "admin/functions/sweep")
    assert known("GET", "admin/host/systemkeys")
    assert not known("POST", "admin/host/status")
    assert not known("GET", "admin/nothing")
    assert not known("GET", "admin")
