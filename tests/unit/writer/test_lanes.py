from pathlib import Path

import pytest

from errata.errors import StartupError
from errata.writer.lanes import read_lanes


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
