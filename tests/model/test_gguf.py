"""GGUF files: those that Hugging Face reads, and one clear error for the others."""

import re

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import ModelError

gguf = pytest.importorskip("gguf")
WIDTH = 256  # what a block of every quantisation divides
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write(path, quantisation=None):
    """A Llama of one layer, in float32 or with matrices in a quantisation."""
    writer = gguf.GGUFWriter(str(path), "llama")
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": WIDTH, "feed_forward_length": WIDTH}
    for name, value in {**sizes, "head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", "</s>"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_eos_token_id(3)
    rng = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", rng.normal(size=(4, WIDTH)).astype(np.float32))
    for name in MATRICES:
        if quantisation is None:
            writer.add_tensor(f"blk.0.{name}.weight", rng.normal(size=(WIDTH, WIDTH)).astype(np.float32))
        else:
            block, size = gguf.GGML_QUANT_SIZES[quantisation]
            content = np.zeros((WIDTH, WIDTH // block * size), np.uint8)
            writer.add_tensor(f"blk.0.{name}.weight", content, raw_dtype=quantisation)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()


def load(folder):
    return gl.HookedVLM.from_pretrained(str(folder), gguf_file="model.gguf")


@torch.no_grad()
def test_a_file_is_loaded_and_its_heads_are_live(tmp_path):
    write(tmp_path / "model.gguf")
    model = load(tmp_path)
    inputs = model.prepare(None, "abab")
    plain = model(inputs)
    assert plain.isfinite().all()
    assert not torch.allclose(model.run_with_hooks(inputs, fwd_hooks=gl.zero_ablate(["L0H1"])), plain)


def unknown(content):
    """The content with a quantisation of a number that nobody knows."""
    head = b"blk.0.attn_q.weight" + (2).to_bytes(4, "little") + 2 * WIDTH.to_bytes(8, "little")
    assert content.count(head) == 1
    at = content.index(head) + len(head)
    return content[:at] + (99).to_bytes(4, "little") + content[at + 4 :]


@pytest.mark.parametrize(
    ("quantisation", "spoilt", "message"),
    [
        ("Q8_K", bytes, "Dequantization for Q8_K is not yet implemented"),
        ("Q8_1", bytes, "Dequantization for Q8_1 is not yet implemented"),
        ("Q8_0", unknown, "99.* is not a valid GGMLQuantizationType"),
        ("Q8_0", lambda content: content[: len(content) // 2], "cannot reshape array"),
        ("Q8_0", lambda _: b"no GGUF at all", "GGUF"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path, quantisation, spoilt, message):
    path = tmp_path / "model.gguf"
    write(path, gguf.GGMLQuantizationType[quantisation])
    path.write_bytes(spoilt(path.read_bytes()))
    with pytest.raises(ModelError, match=message) as caught:
        load(tmp_path)
    assert re.search("model.gguf must be a whole GGUF file, in a quantisation .* such as F16", str(caught.value))


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelError, match="model.gguf"):
        load(tmp_path)
