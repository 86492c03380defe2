"""Parts of a checkpoint that do not belong together, and what the hub refuses, are told by file and in one line."""

import json
import shutil

import pytest
import torch
from huggingface_hub import errors
from reference import picture
from transformers import AutoProcessor

from gaze_lens import HookedVLM, testing
from gaze_lens.errors import ModelError
from gaze_lens.model.hub_errors import reason


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "checkpoint"
    model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=1)
    model.save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(sound, tmp_path / "checkpoint")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, match):
    with pytest.raises(ModelError, match=match) as caught:
        HookedVLM.from_pretrained(str(folder))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("family", ["Qwen3-VL", "Gemma 3", "Pixtral", "PaliGemma", "Idefics3", "InternVL", "Mllama"])
def test_parts_that_belong_together_are_accepted(shelf, family):
    model, _ = shelf.get(family)
    HookedVLM.wrap(testing.tiny(family)[0], model.processor)


def test_a_template_without_the_image(folder):
    path = folder / "chat_template.jinja"
    path.write_text("{% for message in messages %}{{ message['content'][-1]['text'] }}{% endfor %}")
    refused(folder, r"chat template of .*checkpoint \(chat_template.jinja or .json\) writes nothing for an image")


def test_a_tokenizer_without_the_image_token(folder):
    token = AutoProcessor.from_pretrained(folder).image_token
    for path in folder.glob("tokenizer*.json"):
        path.write_text(path.read_text().replace(token, "<|picture|>"))
    refused(folder, r"\(tokenizer.json\) has no token <\|image_pad\|>")


def test_a_processor_of_another_model(folder):
    change_config(folder, image_token_id=65)
    refused(folder, r"\(config.json\) expects token 65 for an image.*\(tokenizer.json\) has .* there: they are of two")


def test_a_config_of_a_newer_transformers(folder):
    change_config(folder, model_type="qwen9_vl", transformers_version="99.1.0")
    refused(folder, r"qwen9_vl.* Its config.json was written by transformers 99.1.0, and [0-9.]+ is installed")


def test_a_value_that_a_config_may_not_have(folder):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_config(folder, text_config={**text, "hidden_size": "wide"})
    refused(folder, r"is no model that Hugging Face can load .config.json.: .*hidden_size")


@torch.no_grad()
def test_shards_and_a_subfolder_give_the_same_model(sound, tmp_path):
    assert len(list(sound.glob("*.safetensors"))) > 1
    shutil.copytree(sound, tmp_path / "models" / "inner")
    whole = HookedVLM.from_pretrained(str(sound), low_cpu_mem_usage=True)
    inner = HookedVLM.from_pretrained(str(tmp_path / "models"), subfolder="inner")
    inputs = whole.prepare(picture(64, 64), "Hi")
    assert torch.equal(whole(inputs), inner(inputs))


class Response:
    """What the hub answers, as far as its errors look at it."""

    headers: dict = {}  # noqa: RUF012
    request = None


def hub_error(kind):
    """An OSError as Hugging Face raises it, because of an error of the hub."""
    error = OSError("We could not load it.\nSee the page for more.")
    error.__cause__ = kind("no", response=Response()) if issubclass(kind, errors.HfHubHTTPError) else kind("no")
    return error


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (errors.GatedRepoError, "it is gated: accept its conditions"),
        (errors.RepositoryNotFoundError, "no such model, or it is private: check the spelling"),
        (errors.RevisionNotFoundError, "no such revision: give a branch, a tag or a commit"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached"),
        (errors.OfflineModeIsEnabled, "the hub cannot be reached"),
        (ConnectionError, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(kind, advice, monkeypatch):
    def refuse(*_args, **_options):
        raise hub_error(kind)

    monkeypatch.setattr("gaze_lens.model.loading.AutoConfig.from_pretrained", refuse)
    refused("somebody/model", rf"somebody/model is no model that Hugging Face can load .config.json.: .*{advice}")


def test_a_folder_that_is_not_there_is_told():
    refused("/no/such/folder", "there is no such folder here, and models of the hub are named owner/name")


def test_other_errors_keep_their_first_line():
    assert reason(ValueError("\n  The size is wrong.\nAnd more.")) == "The size is wrong."
    assert reason(ValueError()) == "ValueError"
