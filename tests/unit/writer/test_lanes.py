import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from errata.editing.adaple.config import AdapleConfig
from errata.editing.elder.config import EARLIER_BANKS
from errata.editing.lemoe.config import FOLLOWING, QUESTIONS
from errata.editing.registry import get_method
from errata.errors import StartupError
from errata.log.entries import LaneConfigured
from errata.writer.lanes import LaneSetup, configure, read_lanes


def test_without_a_file_there_is_one_lane_with_the_papers_method() -> None:
    (setup,) = read_lanes(None, "lanes/main", "model")
    lane = setup.configured
    assert (lane.lane, lane.method, lane.base_model_digest) == ("lanes/main", "adaple", "model")


def test_without_a_file_the_method_is_a_setting() -> None:
    (setup,) = read_lanes(None, "lanes/main", "model", "elder")
    assert setup.configured.method == "elder"
    assert setup.model is None, "it takes the installed gate"
    with pytest.raises(StartupError, match="nothing"):
        read_lanes(None, "lanes/main", "model", "nothing")


def test_a_file_configures_lanes_and_every_value_changes_the_digest(tmp_path: Path) -> None:
    file = tmp_path / "lanes.toml"
    digests = []
    for variant in ("memit", "printed"):
        file.write_text(
            f'[lanes.main]\nmethod = "adaple"\n[lanes.main.config]\nvariant = "{variant}"\n'
        )
        (setup,) = read_lanes(file, "lanes/main", "model")
        lane = setup.configured
        assert variant in lane.config_json
        digests.append(lane.config_digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lanes.main\n", "not valid TOML"),
        ("[lanes.main]\n", "method"),
        ('[lanes.main]\nmethod = "magic"\n', "choose one of adaple"),
        ('[lanes.main]\nmethod = "adaple"\nbatch = 3\n', "batch"),
        ('[lanes.main]\nmethod = "adaple"\n[lanes.main.config]\nlamda = 3\n', "lamda"),
        ('[lanes.main]\nmethod = "adaple"\nmodel = "m"\n', "adaple has no lane model"),
        ('[lanes.main]\nmethod = "elder"\nadapters = ["a"]\n', 'set `init = "adapters"`'),
        ('[lanes.main]\nmethod = "adaple"\nadapters = ["a"]\n', "names adapters"),
        ('[lanes.other]\nmethod = "adaple"\n', "default lane"),
        ('[lanes.Main_1]\nmethod = "adaple"\n[lanes.main]\nmethod = "adaple"\n', "lane name"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "lanes.toml"
    file.write_text(text)
    with pytest.raises(StartupError, match=message):
        read_lanes(file, "lanes/main", "model")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        read_lanes(tmp_path / "none.toml", "lanes/main", "model")


def test_a_lane_models_path_is_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lanes.toml"
    file.write_text('[lanes.main]\nmethod = "recipe"\nmodel = "here"\n')
    (setup,) = read_lanes(file, "lanes/main", "model")
    assert setup.model == tmp_path / "here"
    file.write_text('[lanes.main]\nmethod = "recipe"\nmodel = "/there"\n')
    (setup,) = read_lanes(file, "lanes/main", "model")
    assert setup.model == Path("/there")


# What a version without banks and refinement wrote into the log, by method and preset.
EARLIER = json.loads((Path(__file__).parent / "earlier_lanes.json").read_text())


@pytest.mark.parametrize("name", sorted(EARLIER))
def test_an_earlier_lane_is_the_same_lane_without_a_change_of_its_file(
    tmp_path: Path, name: str
) -> None:
    method, _, preset = name.partition("/")
    table = f'[lanes.main]\nmethod = "{method}"\npreset = "{preset}"\n[lanes.main.config]\n'
    file = tmp_path / "lanes.toml"
    for config, values in (("", {}), ("num_contexts = 3", {"num_contexts": 3})):
        if method == "adaple" and values:
            config, values = "gain = 3.0", {"gain": 3.0}
        file.write_text(table + config)
        (setup,) = read_lanes(file, "lanes/main", "model")
        text = json.dumps(EARLIER[name] | values)
        known = replace(setup.configured, config_json=text, config_digest="of that text")
        assert setup.is_same_lane(known)
        other = json.dumps(EARLIER[name] | values | {"steps": 7, "refine_steps": 7})
        assert not setup.is_same_lane(replace(known, config_json=other))


@pytest.mark.parametrize(
    ("method", "option"),
    [("lemoe", "depth_share = 0.5"), ("elder", "bank_edits = 16"), ("recipe", "num_rephrases = 0")],
)
def test_an_option_that_did_not_exist_makes_another_lane(
    tmp_path: Path, method: str, option: str
) -> None:
    file = tmp_path / "lanes.toml"
    file.write_text(f'[lanes.main]\nmethod = "{method}"\n[lanes.main.config]\n{option}\n')
    (setup,) = read_lanes(file, "lanes/main", "model")
    text = json.dumps(EARLIER[method])
    assert not setup.is_same_lane(replace(setup.configured, config_json=text, config_digest="d"))


@pytest.mark.parametrize(
    ("method", "defaults"),
    [
        *(("elder", banks) for banks in EARLIER_BANKS),
        *(("lemoe", values) for values in (QUESTIONS, FOLLOWING)),
    ],
)
def test_a_lane_with_the_defaults_of_an_earlier_version_is_the_same_lane(
    tmp_path: Path, method: str, defaults: Mapping[str, object]
) -> None:
    file = tmp_path / "lanes.toml"
    for config, values in (("", {}), ("learning_rate = 0.1\n", {"learning_rate": 0.1})):
        file.write_text(f'[lanes.main]\nmethod = "{method}"\n[lanes.main.config]\n{config}')
        (setup,) = read_lanes(file, "lanes/main", "model")
        earlier = EARLIER[method] | defaults | values
        assert "extra_steps" not in earlier
        known = replace(setup.configured, config_json=json.dumps(earlier), config_digest="old")
        assert setup.is_same_lane(known)
        other = json.dumps(earlier | {"rank": 5})
        assert not setup.is_same_lane(replace(known, config_json=other))


@pytest.mark.parametrize("values", [{"scope": "codes"}, {"init": "adapters"}])
def test_a_lane_with_one_bank_never_had_the_defaults_of_banks(values: dict[str, str]) -> None:
    assert all(found == values for found in get_method("elder").earlier_values(values))


@pytest.mark.parametrize("method", ["elder", "lemoe"])
def test_fits_of_new_lanes_learn_questions_and_go_on_until_all_is_said(method: str) -> None:
    assert get_method(method).values("", {})["extra_steps"] > 0
    assert not get_method(method).values("paper", {}).get("extra_steps", 0)
    assert get_method(method).values("", {})["num_following"] == 3
    assert get_method(method).values("", {})["num_questions"] >= 10
    assert not get_method(method).values("paper", {}).get("num_following", 0)
    assert get_method(method).values("", {"num_following": 0})["num_following"] == 0


def test_a_new_lemoe_lane_without_a_scope_test_learns_no_questions() -> None:
    values = get_method("lemoe").values("", {"scope": "off"})
    assert values == {"scope": "off", "num_following": 3}
    assert get_method("lemoe").config.model_validate(values).num_questions == 0


@pytest.mark.parametrize("name", ["adaple", "elder", "lemoe"])
def test_a_presets_values_are_the_same_lane_as_the_preset(name: str) -> None:
    """Benchmarks vary by a preset's values, to which a new lane's defaults are added.

    RECIPE's `paper` leaves out `num_contexts`, which no fit reads without `refine_steps`.
    """
    method = get_method(name)
    for preset, values in method.presets.items():
        varied = method.config.model_validate(method.values("", values))
        assert varied == method.config.model_validate(method.values(preset, {}))


def test_a_new_elder_lane_has_banks_unless_its_scope_or_its_adapters_need_one() -> None:
    method = get_method("elder")
    assert method.values("", {})["bank_edits"] == 16
    for values in ({"scope": "codes"}, {"init": "adapters"}):
        assert method.values("", values) == values
        assert method.config.model_validate(values).model_dump()["bank_edits"] == 0


def test_a_lane_is_not_another_models_or_one_that_cannot_be_read() -> None:
    now = configure("main", "elder", {"num_layers": 3}, "model")
    known = replace(now, config_digest="another")
    assert LaneSetup(now, None).is_same_lane(known)
    assert not LaneSetup(replace(now, base_model_digest="other"), None).is_same_lane(known)
    unknown = replace(known, config_json='{"magic": 1}')
    assert not LaneSetup(now, None).is_same_lane(unknown)


def _lane(tmp_path: Path, config: str = "") -> LaneSetup:
    file = tmp_path / "lanes.toml"
    file.write_text(f'[lanes.main]\nmethod = "adaple"\n[lanes.main.config]\n{config}\n')
    (setup,) = read_lanes(file, "lanes/main", "model")
    return setup


def _earlier(configured: LaneConfigured, *newer: str, **values: object) -> LaneConfigured:
    """The lane as a version logged it that did not know some options."""
    known = AdapleConfig().model_dump(mode="json") | values
    text = json.dumps({key: value for key, value in known.items() if key not in newer})
    return replace(configured, config_json=text, config_digest="d")


def test_a_lane_of_an_older_log_is_the_same_lane_with_what_it_had(tmp_path: Path) -> None:
    newer = ("optimise", "metric", "step_length", "null_threshold", "capacity")
    for config, values in (("", {}), ("gain = 2.0", {"gain": 2.0})):
        setup = _lane(tmp_path, config)
        assert setup.is_same_lane(setup.configured)
        known = _earlier(setup.configured, *newer, **values)
        assert setup.is_same_lane(known)
        assert AdapleConfig.model_validate_json(known.config_json).optimise == "top"
        assert not setup.is_same_lane(_earlier(setup.configured, *newer, gain=3.0))
        assert not setup.is_same_lane(replace(known, base_model_digest="other"))
        assert not setup.is_same_lane(replace(known, method="elder"))
        assert not setup.is_same_lane(replace(known, config_json='{"of a later version": 1}'))
