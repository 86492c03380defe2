"""Shared parts of the tiny models: a byte-level tokenizer, a chat template, and the language model's config."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

Contents = Callable[[str], str]
BEGIN = "{{ bos_token }}"  # in a chat template: it writes the begin token
SPACE = "▁"  # sentencepiece's
TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
}  # fmt: skip


def byte_tokenizer(
    special: tuple[str, ...] = (),
    *,
    end: str = "<|im_end|>",
    pad: str = "<|endoftext|>",
    begin: str | None = None,
    sentencepiece: bool = False,
    prefix_space: bool = False,
    **options: Any,
) -> PreTrainedTokenizerFast:
    """A tokenizer without merges: one token per byte, and the special tokens of a family.

    begin: a token that the tokenizer puts before every text, as those of Llama, Mistral and Gemma do. sentencepiece:
    a space is the token "▁", as in Gemma and Llama 2; else bytes are named as in GPT-2. prefix_space: a text, also one
    after a special token, gets a space in front, as in Llama 2. options: further arguments of
    `PreTrainedTokenizerFast`, such as `bos_token` (a begin token that it does not add) or `extra_special_tokens`.
    """  # fmt: skip
    core = _sentencepiece(prefix_space) if sentencepiece or prefix_space else _byte_level()
    if begin is not None:
        special, options = (*special, begin), {"bos_token": begin, **options}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token=pad, padding_side="left", **options
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    if begin is not None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.bos_token_id)]
        )
    return tokenizer


def _byte_level() -> Tokenizer:
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _sentencepiece(prefix_space: bool) -> Tokenizer:
    named = {ord(" "): SPACE, **{code: chr(code) for code in range(ord("!"), 127)}}
    vocabulary = {named.get(byte, f"<0x{byte:02X}>"): byte for byte in range(256)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", SPACE)
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), core.normalizer])
        decoding.append(decoders.Strip(" ", 1, 0))
    core.decoder = decoders.Sequence(decoding)
    return core


def chat_template(
    image: str, contents: Contents | None = None, *, begin: str = "", system: str = "", answer: str = ""
) -> str:
    """A chat template that writes `image` where a message has an image.

    contents: how a message's content is written, one of the functions below; by default `either`. begin: what stands
    before the first message; "{{ bos_token }}" for the begin token. system: the system turn of a conversation that
    has none. answer: what the answer's turn begins with.
    """  # fmt: skip
    opening = f"{{% if messages[0]['role'] != 'system' %}}{_turn('system', system)}{{% endif %}}" if system else ""
    return (
        begin + opening + "{% for message in messages %}" + _turn("{{ message['role'] }}", (contents or either)(image))
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + answer + "{% endif %}"
    )  # fmt: skip


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def parts(image: str, text: str = "{{ part['text'] }}") -> str:
    """Contents that must be lists, as in Idefics3; the parts stand in their order."""
    return (
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + image + "{% else %}" + text
        + "{% endif %}{% endfor %}"
    )  # fmt: skip


def with_video(image: str, video: str) -> str:
    """An image's text for `parts`, followed by what is written where a message has a video."""
    return f"{image}{{% elif part['type'] == 'video' %}}{video}"


def images_first(image: str) -> str:
    """Contents that must be lists, as in LLaVA; all images of a message stand before its texts."""
    listed = "{% for part in message['content'] | selectattr('type', 'equalto', "
    return f"{listed}'image') %}}{image}{{% endfor %}}{listed}'text') %}}{{{{ part['text'] }}}}{{% endfor %}}"


def images_then_videos(image: str) -> str:
    """The same with all videos after the images, as in LLaVA-OneVision."""
    listed = "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>\n{% endfor %}"
    images, text = images_first(image).split("{% endfor %}", 1)
    return f"{images}{{% endfor %}}{listed}{text}"


def either(image: str) -> str:
    """Contents that may be texts or lists, as in Qwen-VL."""
    return _if("message['content'] is string", "{{ message['content'] }}", parts(image))


def either_images_first(image: str) -> str:
    """The same, with all images of a message before its texts, as in Aya."""
    return _if("message['content'] is string", "{{ message['content'] }}", images_first(image))


def trimmed(image: str) -> str:
    """The same, with white space taken off the ends of texts, as in Gemma 3 and Qwen3.5."""
    listed = parts(image, "{{ part['text'] | trim }}")
    return _if("message['content'] is string", "{{ message['content'] | trim }}", listed)


def texts_but_for_users(image: str) -> str:
    """Contents of system and assistant turns must be texts, as in GLM-V; a list is printed as Python prints it."""
    return _if("message['role'] == 'user'", either(image), "{{ message['content'] }}")


def text_of_assistant(image: str) -> str:
    """Contents of assistant turns must be texts, as in Mistral 3; a list is an error."""
    return _if("message['role'] == 'assistant'", "{{ message['content'] + '' }}", either(image))


def text_of_system(image: str) -> str:
    """The content of a system turn must be a text, as in Pixtral; a list is an error."""
    return _if("message['role'] == 'system'", "{{ message['content'] + '' }}", either(image))


def trimmed_text_of_system(image: str) -> str:
    """The content of a system turn must be a text; a list is printed as Python prints it, as in Gemma 4."""
    return _if("message['role'] == 'system'", "{{ message['content'] | trim }}", trimmed(image))


def no_system(image: str) -> str:
    """A system turn is left empty, as in Mllama beside an image."""
    return _if("message['role'] == 'system'", "", either(image))


def _if(condition: str, then: str, otherwise: str) -> str:
    return f"{{% if {condition} %}}{then}{{% else %}}{otherwise}{{% endif %}}"


def text_config(tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of a language model's config: common ones, overridden by the family's, then by `changes`."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    return {**TEXT, "vocab_size": len(tokenizer), **ids, **more, **changes}
