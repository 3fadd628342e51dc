"""Settings from files and the environment: typed, strict about what is not known; the last source that has one counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship import config
from transship.config import Settings, sources
from transship.config.settings import SETTINGS
from transship.errors import UsageError
from transship.files.fill import FillMode
from transship.formats.compression import Codec

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "transship.toml"
    path.write_text(text)
    return config.load(path)


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in the place of /etc/transship; it is not there yet."""
    place = tmp_path / "etc"
    monkeypatch.setattr(sources, "DEFAULT_FILE", place / "transship.toml")
    monkeypatch.setattr(sources, "DROP_INS", place / "conf.d")
    for variable in [name for name in os.environ if name.startswith("TRANSSHIP_")]:
        monkeypatch.delenv(variable)
    return place


def put(place: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


# One file


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "[source]\n[run]\n") == Settings()


def test_every_setting_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [source]
        directory = "/srv/docker"
        driver = "vfs"
        [target]
        to = "oci:/srv/layout"
        namespace = "k8s.io"
        snapshotter = "native"
        [blobs]
        compression = "gzip"
        level = 2
        [snapshots]
        fill = "link-all"
        [run]
        state-dir = "/srv/state"
        jobs = 3
        [log]
        level = "debug"
        [service]
        socket = "/srv/socket"
        group = "wheel"
        users = ["anna", "ben"]
        resume = false
        idle-exit = 0
        stop-within = 1.5
        stalled-after = 10
        textfile = "/srv/transship.prom"
        connections = 1
        streams = 2
        """,
    )
    assert (settings.source.directory, settings.source.driver) == (Path("/srv/docker"), "vfs")
    assert (settings.target.to, settings.target.namespace, settings.target.snapshotter) == (
        "oci:/srv/layout",
        "k8s.io",
        "native",
    )
    assert (settings.blobs.compression, settings.blobs.level) == (Codec.GZIP, 2)
    assert settings.snapshots.fill is FillMode.LINK_ALL
    assert (settings.run.state_dir, settings.run.jobs, settings.run.parallel) == (Path("/srv/state"), 3, 3)
    assert settings.log.level == "debug"
    assert settings.service == config.ServiceSettings(
        socket=Path("/srv/socket"),
        group="wheel",
        users=("anna", "ben"),
        resume=False,
        idle_exit=0,
        stop_within=1.5,
        stalled_after=10,
        textfile=Path("/srv/transship.prom"),
        connections=1,
        streams=2,
    )


def test_without_a_number_of_jobs_processors_decide() -> None:
    assert 1 <= Settings().run.parallel <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\njob = 1\n", "'run.job', did you mean run.jobs?"),
        ("[run]\nstate_dir = '/x'\n", "'run.state_dir', did you mean run.state-dir?"),
        ("[runs]\n", "'runs', did you mean run?"),
        ("jobs = 1\n", "unknown setting 'jobs'"),
        ("run = 5\n", "run is not a table"),
        ("[[run]]\njobs = 1\n", "run is not a table"),
        ("[run]\njobs = '1'\n", "run.jobs"),
        ("[run]\njobs = 1.5\n", "run.jobs"),
        ("[run]\njobs = true\n", "run.jobs"),
        ("[run]\njobs = -1\n", "run.jobs"),
        ("[run]\njobs = 100000\n", "run.jobs"),
        ("[run]\nstate-dir = 1\n", "run.state-dir"),
        ("[run]\nstate-dir = ''\n", "run.state-dir"),
        ('[run]\nstate-dir = "a\\u0000"\n', "run.state-dir"),
        ("[target]\nto = true\n", "target.to"),
        ("[target]\nnamespace = ''\n", "target.namespace"),
        ("[blobs]\ncompression = 'lzma'\n", "Expected one of zstd, gzip, none"),
        ("[log]\nlevel = 'loud'\n", "Expected one of debug, info, warning, error"),
        ("[service]\nconnections = 0\n", "service.connections"),
        ("[service]\nstreams = 0\n", "service.streams"),
        ("[service]\nidle-exit = -1\n", "service.idle-exit"),
        ("[service]\nidle-exit = nan\n", "service.idle-exit"),
        ("[service]\nstop-within = inf\n", "service.stop-within"),
        ("[service]\nstalled-after = 0\n", "service.stalled-after"),
        ("[service]\nusers = 'root'\n", "service.users"),
        ("[service]\nusers = [1]\n", "service.users"),
        ('[service]\ngroup = "a\\u0000"\n', "service.group"),
        ("[service]\nresume = 1\n", "service.resume"),
        ("[service]\nresume = 1979-05-27\n", "service.resume"),
        ("x = " + "[" * 50_000, ""),
        ("[run", "table declaration"),
        ("[run]\njobs = 1\njobs = 2\n", "line 3"),
        ("\0", "line 1"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(str(tmp_path / "transship.toml"))
    assert said in caught.value.message
    assert caught.value.remedy


def test_what_is_no_usable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        config.load(tmp_path / "none")
    with pytest.raises(UsageError, match=str(tmp_path)):
        config.load(tmp_path)
    with pytest.raises(UsageError, match="null"):
        config.load(tmp_path / "a\0")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="binary"):
        config.load(tmp_path / "binary")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 10 << 30)
    with pytest.raises(UsageError, match="huge is larger"):
        config.load(tmp_path / "huge")


def test_a_huge_value_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, f"[run]\njobs = '{'x' * 500_000}'\n")
    assert len(caught.value.message) < 1000


# Several files


def test_no_file_need_be_there() -> None:
    assert config.load() == Settings()
    assert config.read().files == ()


def test_drop_ins_follow_the_file_in_the_order_of_their_names(usual: Path) -> None:
    put(
        usual,
        {
            "conf.d/9.toml": "[run]\njobs = 9\n",
            "conf.d/10.toml": "[run]\njobs = 10\n[blobs]\nlevel = 10\n",
            "transship.toml": "[run]\njobs = 1\n[blobs]\nlevel = 1\n[target]\nto = 'containerd'\n",
            "conf.d/.hidden.toml": "[run]\njobs = 99\n",
            "conf.d/99.toml.bak": "wrong",
            "conf.d/README": "wrong",
        },
    )
    found = config.read()
    assert (found.settings.target.to, found.settings.blobs.level, found.settings.run.jobs) == ("containerd", 10, 9)
    assert found.files == (usual / "transship.toml", usual / "conf.d/10.toml", usual / "conf.d/9.toml")
    assert [str(found.origins[key]) for key in ("target.to", "blobs.level", "run.jobs", "log.level")] == [
        str(usual / "transship.toml"),
        str(usual / "conf.d/10.toml"),
        str(usual / "conf.d/9.toml"),
        "default",
    ]


def test_drop_ins_do_without_the_file(usual: Path) -> None:
    put(usual, {"conf.d/a.toml": "[run]\njobs = 2\n"})
    assert config.load().run.jobs == 2


def test_a_file_that_is_named_stands_alone(usual: Path, tmp_path: Path) -> None:
    put(usual, {"transship.toml": "[run]\njobs = 1\n", "conf.d/a.toml": "wrong"})
    assert load(tmp_path, "[blobs]\nlevel = 2\n") == Settings(blobs=config.BlobSettings(level=2))


def test_each_file_answers_for_itself(usual: Path) -> None:
    put(
        usual,
        {"transship.toml": "[run]\njobs = 1\n", "conf.d/a.toml": "[run]\njobs = -1\n", "conf.d/b.toml": "[run]\njobs = 2\n"},
    )
    with pytest.raises(UsageError) as caught:
        config.load()
    assert str(usual / "conf.d/a.toml") in caught.value.message
    assert "transship.toml" not in caught.value.message
    assert "b.toml" not in caught.value.message


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["transship.toml", "conf.d/a.toml"])
def test_what_is_there_but_cannot_be_read_is_an_error(usual: Path, name: str, make: object) -> None:
    assert callable(make)
    (usual / "conf.d").mkdir(parents=True)
    make(usual / name)
    with pytest.raises(UsageError, match=name):
        config.load()


def test_a_directory_of_drop_ins_that_is_none(usual: Path) -> None:
    put(usual, {"conf.d": ""})
    with pytest.raises(UsageError, match=r"conf\.d cannot be read"):
        config.load()


def test_everything_wrong_is_named_at_once(usual: Path) -> None:
    put(
        usual,
        {"transship.toml": "[run]\njobs = -1\njob = 1\n[x]\n", "conf.d/a.toml": "[", "conf.d/b.toml": "[log]\nlevel = 1\n"},
    )
    with pytest.raises(UsageError) as caught:
        config.read(environment={"TRANSSHIP_NO": "1", "TRANSSHIP_RUN_JOBS": "many"})
    for thing in ("run.jobs", "'run.job'", "'x'", "a.toml", "log.level", "TRANSSHIP_NO", "TRANSSHIP_RUN_JOBS"):
        assert thing in caught.value.message


# The environment


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("TRANSSHIP_TARGET_TO", "oci:/x", "target.to", "oci:/x"),
        ("TRANSSHIP_TARGET_TO", "null", "target.to", "null"),
        ("TRANSSHIP_SOURCE_DIRECTORY", "/x", "source.directory", "/x"),
        ("TRANSSHIP_SOURCE_DIRECTORY", "5", "source.directory", "5"),
        ("TRANSSHIP_RUN_STATE_DIR", "/a b,c", "run.state-dir", "/a b,c"),
        ("TRANSSHIP_RUN_JOBS", "3", "run.jobs", 3),
        ("TRANSSHIP_BLOBS_COMPRESSION", "gzip", "blobs.compression", "gzip"),
        ("TRANSSHIP_BLOBS_LEVEL", "3", "blobs.level", 3),
        ("TRANSSHIP_LOG_LEVEL", "debug", "log.level", "debug"),
        ("TRANSSHIP_SERVICE_USERS", "anna, ben", "service.users", ("anna", "ben")),
        ("TRANSSHIP_SERVICE_USERS", "", "service.users", ()),
        ("TRANSSHIP_SERVICE_RESUME", "false", "service.resume", False),
        ("TRANSSHIP_SERVICE_IDLE_EXIT", "1.5", "service.idle-exit", 1.5),
    ],
)
def test_variables(usual: Path, variable: str, text: str, key: str, value: object) -> None:
    put(usual, {"transship.toml": "[service]\nusers = ['carl']\n"})
    found = config.read(environment={variable: text})
    section, name = key.split(".")
    assert msgspec.to_builtins(found.settings, enc_hook=str)[section][name] == value
    assert str(found.origins[key]) == variable


def test_the_environment_counts_beside_a_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSSHIP_RUN_JOBS", "5")
    assert load(tmp_path, "[run]\njobs = 2\n").run.jobs == 5


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("TRANSSHIP_RUN_JOB", "1", "did you mean TRANSSHIP_RUN_JOBS?"),
        ("TRANSSHIP_", "1", "TRANSSHIP_"),
        ("TRANSSHIP_RUN", "1", "TRANSSHIP_RUN"),
        ("TRANSSHIP_RUN_STATE-DIR", "/x", "TRANSSHIP_RUN_STATE-DIR"),
        ("TRANSSHIP_RUN_JOBS", "many", "TRANSSHIP_RUN_JOBS = 'many'"),
        ("TRANSSHIP_RUN_JOBS", "-1", "TRANSSHIP_RUN_JOBS"),
        ("TRANSSHIP_RUN_JOBS", "", "TRANSSHIP_RUN_JOBS"),
        ("TRANSSHIP_RUN_STATE_DIR", "", "TRANSSHIP_RUN_STATE_DIR"),
        ("TRANSSHIP_TARGET_TO", "", "TRANSSHIP_TARGET_TO"),
        ("TRANSSHIP_BLOBS_COMPRESSION", "lzma", "zstd, gzip, none"),
        ("TRANSSHIP_SERVICE_RESUME", "perhaps", "TRANSSHIP_SERVICE_RESUME"),
        ("TRANSSHIP_SERVICE_USERS", "a,,b", "TRANSSHIP_SERVICE_USERS"),
        ("TRANSSHIP_SERVICE_CONNECTIONS", "0", "TRANSSHIP_SERVICE_CONNECTIONS"),
        ("TRANSSHIP_SERVICE_IDLE_EXIT", "nan", "TRANSSHIP_SERVICE_IDLE_EXIT"),
    ],
)
def test_variables_that_are_wrong(variable: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.read(environment={variable: text})
    assert said in caught.value.message


def test_other_variables_are_nobody_s_business() -> None:
    others = {"PATH": "/bin", "_TRANSSHIP_X": "1", "transship_x": "1", "TRANSSHIPMENT": "1"}
    assert config.read(environment=others).settings == Settings()


# All of them together

VALUES = {
    "source.directory": st.sampled_from(["/a", "/b"]),
    "target.to": st.sampled_from(["containerd", "oci:/x"]),
    "blobs.compression": st.sampled_from(["zstd", "gzip", "none"]),
    "blobs.level": st.integers(0, 19),
    "snapshots.fill": st.sampled_from(["auto", "copy"]),
    "run.jobs": st.integers(0, 9),
    "log.level": st.sampled_from(["debug", "error"]),
    "service.users": st.lists(st.sampled_from(["anna", "ben", "carl"])),
    "service.resume": st.booleans(),
    "service.idle-exit": st.integers(0, 9),
}
LAYER = st.fixed_dictionaries({}, optional=VALUES)


def toml(layer: Mapping[str, object]) -> str:
    """Dotted keys: the order of sections does not matter."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in layer.items())


def text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


@given(
    file=st.none() | LAYER,
    drop_ins=st.dictionaries(st.from_regex(r"[a-c0-2]{1,3}\.toml", fullmatch=True), LAYER, max_size=3),
    variables=LAYER,
)
def test_any_mix_of_sources_gives_the_value_of_the_last_that_has_it(
    tmp_path_factory: pytest.TempPathFactory,
    file: dict[str, object] | None,
    drop_ins: dict[str, dict[str, object]],
    variables: dict[str, object],
) -> None:
    place = tmp_path_factory.mktemp("etc")
    layers = {} if file is None else {str(place / "transship.toml"): file}
    layers |= {str(place / "conf.d" / name): drop_ins[name] for name in sorted(drop_ins)}
    (place / "conf.d").mkdir()
    for path, layer in layers.items():
        Path(path).write_text(toml(layer))
    environment = {
        f"TRANSSHIP_{key.upper().replace('.', '_').replace('-', '_')}": text(value) for key, value in variables.items()
    }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "DEFAULT_FILE", place / "transship.toml")
        patch.setattr(sources, "DROP_INS", place / "conf.d")
        found = config.read(environment=environment)

    assert list(map(str, found.files)) == list(layers)
    values = msgspec.json.decode(msgspec.json.encode(found.settings, enc_hook=str))
    defaults = msgspec.json.decode(msgspec.json.encode(Settings(), enc_hook=str))
    for key in SETTINGS:
        section, name = key.split(".")
        expected, origin = defaults[section][name], "default"
        for path, layer in layers.items():
            if key in layer:
                expected, origin = layer[key], path
        if key in variables:
            expected, origin = variables[key], f"TRANSSHIP_{key.upper().replace('.', '_').replace('-', '_')}"
        assert (values[section][name], str(found.origins[key])) == (expected, origin)
