"""`lbclient simulate`, and what it is made of."""

import json
import math
import sys
from pathlib import Path

import pytest

from lbclient.cli import main
from lbclient.commands.simulate import _Bar
from lbclient.simulator import Result, simulate
from lbclient.simulator.compare import Figure, compare, recommend, table
from lbclient.simulator.trace import read_trace

SHORT = ["--seconds", "1", "--seeds", "2", "--clients", "2"]


def test_it_prints_a_table_and_a_recommendation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    names = "ideal,adaptive,round_robin"
    arguments = ["simulate", "rolling-deploy", *SHORT, "--algorithms", names]
    assert main([*arguments, "--json", str(figures), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("rolling-deploy: one server after the other restarts")
    assert "p99 / ideal" in printed
    assert "Take " in printed
    assert [len(runs) for runs in json.loads(figures.read_text()).values()] == [2, 2, 2]
    assert "<svg" in picture.read_text()


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        command = [
            "simulate",
            "sinkhole",
            "--seconds",
            "0.5",
            "--seeds",
            "1",
            "--algorithms",
            "adaptive,random",
        ]
        assert main([*command, "--plot", str(picture)]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_png_of_peers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    assert main(["simulate", "two", *SHORT, "--algorithms", "ideal", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "nothing to recommend" in capsys.readouterr().out


def test_scenarios_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    assert "sinkhole-heals" in capsys.readouterr().out


def test_ones_own_scenario_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, trace = tmp_path / "mine.json", tmp_path / "trace.csv"
    scenario.write_text(json.dumps({"name": "mine", "servers": [{"count": 3}], "about": "three of mine"}))
    trace.write_text("path,time,latency\n/a,17.5,0.01\n/b,17.0,0.02\n\n/c,18.0,0.005\n")
    command = ["simulate", str(scenario), "--trace", str(trace), "--seeds", "1", "--retries"]
    assert main([*command, "--algorithms", "adaptive"]) == 0
    assert "mine: three of mine" in capsys.readouterr().out
    assert read_trace(trace) == [(0.0, 0.02), (0.5, 0.01), (1.0, 0.005)]


def test_a_scenario_without_a_name_has_that_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "mine.json"
    scenario.write_text('{"servers": [{"count": 2}]}')
    assert main(["simulate", str(scenario), *SHORT, "--algorithms", "random"]) == 0
    assert capsys.readouterr().out.startswith("mine; 2 clients")


def test_a_scenario_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "mine.yaml"
    scenario.write_text("name: mine\nservers: [{count: 2, cores: 2}]\nabout: two of mine\n")
    assert main(["simulate", str(scenario), *SHORT, "--algorithms", "random"]) == 0
    assert "mine: two of mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "name: [", "mine.yaml: while parsing"),
        ("mine.yml", "- name: mine", "mine.yml is no mapping"),
        ("mine.json", "{", "Expecting property name"),
        ("mine.json", '"mine"', "mine.json is no mapping"),
    ],
)
def test_a_scenario_that_cannot_be_read(
    name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / name
    scenario.write_text(text)
    assert main(["simulate", str(scenario)]) == 2
    assert message in capsys.readouterr().err


def test_yaml_without_pyyaml_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "mine.yaml"
    scenario.write_text("name: mine\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["simulate", str(scenario)]) == 2
    assert "pip install 'lbclient[simulate]'" in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ["least_connections", "adaptive"])
def test_a_run_says_who_was_left_out_and_when(algorithm: str) -> None:
    result = simulate("sinkhole", algorithm, clients=2, seed=1)
    ill = result.left_out["http://server-3:80"]
    by_all = [at * result.seconds / len(ill) for at, share in enumerate(ill) if share == 1]
    assert by_all[0] >= 6  # when it begins to fail
    assert len(by_all) > 10
    assert not any(result.left_out["http://server-5:80"])


def test_looking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = simulate("rolling-deploy", "adaptive", clients=3, seed=2)
    monkeypatch.setattr("lbclient.simulator.engine.Clients._look", lambda *_: None)
    assert simulate("rolling-deploy", "adaptive", clients=3, seed=2).as_dict() == seen.as_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no requests"),
        ("time,bytes\n1,2\n", "one of them should be called 'service'"),
        ("1,0.1\n2\n", "line 2: '2' has no arrival and service time"),
        ("1,0.1\n2,-1\n", "line 2: a service time of -1.0"),
    ],
)
def test_a_bad_trace_says_which_line(tmp_path: Path, text: str, message: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(trace)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "scenario is 'nowhere'; write a JSON or YAML file, or one of"),
        (["--algorithms", "best"], "algorithm is 'best'"),
        (["--seeds", "0"], "seeds is 0"),
        (["--clients", "0"], "clients is 0"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_arguments_are_refused_with_what_to_write(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plot_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["simulate", "two", "--plot", "x.svg"]) == 2
    assert "pip install 'lbclient[simulate]'" in capsys.readouterr().err


def test_progress_is_one_line_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar(shown=True, runs=2)
    bar.of("adaptive")(0.5)
    bar.end()
    assert "[#######" in capsys.readouterr().err
    assert sys.stdout is not None


def made_up(algorithm: str, seed: int, p99: float, failed: float) -> Result:
    return Result("x", algorithm, 1, seed, 100, failed, p99, p99, p99, p99, p99, {}, {}, 1.0, (), {})


FIGURES = {
    "ideal": (0.1, 0.0),
    "adaptive": (0.12, 0.0),
    "least_connections": (0.11, 0.2),
    "random": (0.5, 0.0),
    "peak_ewma": (0.121, 0.0),
}


def test_the_recommendation_weighs_failures_before_latency() -> None:
    rows = compare(lambda name, seed: made_up(name, seed, *FIGURES[name]), list(FIGURES), [1, 2])
    words = recommend(rows)
    assert words.startswith("Take adaptive: its p99 is 1.20 times that of an ideal central queue")
    assert "where least_connections fails 20.0%" in words
    assert "random's is 5.00 times" in words
    assert "peak_ewma would do as well here" in words
    assert table(rows)[0][0] == "algorithm"


def test_among_those_that_are_alike_the_cheapest_is_recommended() -> None:
    rows = compare(
        lambda name, seed: made_up(name, seed, 0.1, 0.0), ["ideal", "peak_ewma", "round_robin"], [1]
    )
    assert recommend(rows).startswith("Take round_robin")


def test_intervals_are_those_of_student() -> None:
    figure = Figure.of([1.0, 2.0, 3.0])
    assert figure.mean == 2
    assert figure.half == pytest.approx(2.484, abs=0.01)
    assert math.isnan(Figure.of([1.0]).half)
    assert Figure.of([1.0] * 40).half == 0


def test_a_run_knows_its_shares() -> None:
    result = simulate("two", "round_robin", clients=1, arrivals=[(0.0, 0.01), (0.1, 0.01)])
    assert set(result.shares().values()) <= {0.0, 0.5, 1.0}
