"""Makes `VLMInputs` from pictures and prompts: chat template, processor, token maps.

`HookedVLM.prepare` calls this. It needs a processor and a family, but no model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from gaze_lens.errors import ImageError, InputError
from gaze_lens.families import Family, Processed, TokenMap, text_only
from gaze_lens.inputs.answer_ids import Answers, Ids, appended, ids_of
from gaze_lens.inputs.chat_template import Message, rendered, special_tokens
from gaze_lens.inputs.collation import Text, collate
from gaze_lens.inputs.fitting import check_whole, fitted, image_for, in_original_pixels
from gaze_lens.inputs.sampling import metadata_of, sampled
from gaze_lens.inputs.segment_positions import taken_out, with_passages, with_segments
from gaze_lens.inputs.typed_text import check_typed_text, check_utf8
from gaze_lens.inputs.video import refuse_other_parts
from gaze_lens.inputs.video_frames import check_order, check_placeholders, with_frames
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.picture import Fit, Picture
from gaze_lens.regions.reading import is_upright, read_image
from gaze_lens.regions.segments import Passages
from gaze_lens.regions.video import SampledVideo, Video, VideoFrames
from gaze_lens.runs.digests import digest

SEEN = ("image", "video")  # kinds of parts of chat messages
PLACEHOLDERS = ("image_token", "image_placeholder_token", "video_token", "audio_token")  # attributes of processors


def prepare(
    processor: Any,
    family: Family,
    images: Any,
    prompts: Any,
    *,
    config: Any,
    answers: Answers | None = None,
    fit: Fit | None = None,
) -> VLMInputs:
    """Build the inputs of `HookedVLM.prepare`, which documents the arguments."""
    conversations, sources, passages = _rows(images, prompts)
    if family.text_only:
        text_only.refuse_pictures(sum(map(len, sources)))
    seen = [_seen(processor, family, row, fit) for row in sources]
    pictures = [[one for one in row if isinstance(one, Picture)] for row in seen]
    videos = [[one for one in row if isinstance(one, SampledVideo)] for row in seen]
    pairs = zip(conversations, passages, strict=True)
    conversations = [with_passages(processor.tokenizer, *pair) for pair in pairs]
    for conversation in conversations:
        _refuse_placeholders(processor, conversation)
        check_typed_text(processor.tokenizer, _parts(conversation))
    prompts = [_prompt_text(processor, family, conversation) for conversation in conversations]
    for prompt, row in zip(prompts, sources, strict=True):
        check_order(processor, prompt, ["video" if isinstance(one, Video) else "image" for one in row])
    ids = ids_of(answers, len(prompts), processor.tokenizer, getattr(config, "image_token_id", None))
    if ids is not None and family.no_chat_template:
        answers, ids = _as_texts(processor.tokenizer, ids), None
    texts = _texts(processor.tokenizer, prompts, None if ids else answers, as_suffix=family.no_chat_template)
    images = [[image_for(processor, picture) for picture in row] for row in pictures]
    tensors = _process(processor, texts, images, sum(videos, []))
    check_placeholders(tensors, config, images, videos)
    if ids is not None:
        tensors = appended(tensors, ids, processor.tokenizer.pad_token_id or 0)
        texts = [Text(text.full + processor.tokenizer.decode(row), row) for text, row in zip(texts, ids, strict=True)]
    sizes = tuple(tuple(image.size for image in row) for row in images)
    clips = tuple((one.video.size, len(one.sampled)) for row in videos for one in row)
    processed = Processed(sizes, tensors, processor, config, clips)
    pictures, videos, maps = with_frames(family, processed, seen, _maps(family, processed, pictures))
    inputs = collate(
        tensors, pictures, texts, maps, config=config, tokenizer=processor.tokenizer, videos=videos,
        cross_attention=family.cross_attention,
    )  # fmt: skip
    return with_segments(inputs, passages, prompts)


def _seen(processor: Any, family: Family, row: list[Picture | Video], fit: Fit | None) -> list[Picture | SampledVideo]:
    """The pictures and videos of a row, as the model sees them: pictures with their `fit`, sampled videos."""
    seen: list[Picture | SampledVideo] = []
    for source in (fitted(source, fit) for source in row):
        number = sum(isinstance(one, SampledVideo) for one in seen)
        seen.append(sampled(processor, family, source, number) if isinstance(source, Video) else source)
    return seen


def _maps(family: Family, processed: Processed, pictures: list[list[Picture]]) -> list[TokenMap]:
    """One map per image, in pixels of the pictures, which may have been stretched for the processor."""
    drawn, maps = [picture for row in pictures for picture in row], []
    for token_map, size, picture in zip(family.token_maps(processed), processed.images, drawn, strict=True):
        maps.append(in_original_pixels(token_map, size, picture.image.size))
        check_whole(picture, maps[-1])
    return maps


def text_of(
    processor: Any, family: Family, prompt: Any, answer: str | None = None, *, n_images: int = 1, kind: str = "image"
) -> Text:
    """The text of one prompt, with its answer if there is one, as `prepare` passes it to the processor.

    kind: of its sources, "image" or "video".
    """
    conversation = _conversation(prompt, [kind] * n_images)
    _refuse_placeholders(processor, conversation)
    check_typed_text(processor.tokenizer, _parts(conversation))
    prompts = [_prompt_text(processor, family, conversation)]
    return _texts(processor.tokenizer, prompts, answer, as_suffix=family.no_chat_template)[0]


def prompt_digest(processor: Any, family: Family) -> str:
    """A fingerprint of what the chat template writes around a question: some templates write today's date."""
    return digest(text_of(processor, family, "?", n_images=0 if family.text_only else 1).full)[:16]


def _prompt_text(processor: Any, family: Family, conversation: list[Message]) -> str:
    """The text of a conversation: by the chat template or, in a family without one, image placeholders and the text."""
    if processor.chat_template is not None:
        return rendered(processor, conversation)
    parts = _parts(conversation)
    if not family.no_chat_template:
        return _plain_text(parts)
    images = [part.get("type") == "image" for part in parts]
    roles = [message["role"] for message in conversation]
    if roles != ["user"] or not any(images) or images != sorted(images, reverse=True):
        raise InputError(
            f"{family.name} models take images and then one text, no conversation: expected one message with the role "
            "'user', its images before its text. Give prepare(image, prompt)."
        )
    return "".join(processor.image_token if part.get("type") == "image" else part["text"] for part in parts)


def _plain_text(parts: list[dict[str, Any]]) -> str:
    """The text for a language model without a chat template."""
    if len(parts) != 1 or "text" not in parts[0]:
        raise InputError(
            "The model's tokenizer has no chat template, so that a prompt is one text; chat messages were given. Give "
            "model.prepare(None, text), or the tokenizer of a chat model."
        )
    return parts[0]["text"]


def _texts(tokenizer: Any, prompts: list[str], answers: Any, *, as_suffix: bool = False) -> list[Text]:
    """Each row's text with its answer, if any: at the end, or separate for the processor where `as_suffix`."""
    if answers is None:
        return [Text(prompt) for prompt in prompts]
    if not isinstance(answers, str | list | tuple):
        raise InputError(f"answers is {type(answers).__name__}; give a text, or a list with a text for each prompt.")
    listed = [answers] * len(prompts) if isinstance(answers, str) else list(answers)
    if len(listed) != len(prompts):
        raise InputError(f"{len(listed)} answers were given for {len(prompts)} prompts; give one for each.")
    for answer in listed:
        if not isinstance(answer, str) or not answer:
            raise InputError(f"The answer {answer!r} was given; give a text of at least one character for each prompt.")
        check_utf8("answer", answer)
    make = _with_suffix if as_suffix else _with_answer
    return [make(tokenizer, prompt, answer) for prompt, answer in zip(prompts, listed, strict=True)]


def _as_texts(tokenizer: Any, ids: list[Ids]) -> list[str]:
    """Answers as texts, for a processor that takes no ids; InputError where their tokens would be others."""
    texts = [tokenizer.decode(row) for row in ids]
    for row, text in zip(ids, texts, strict=True):
        if tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) != row:
            raise InputError(
                f"The answer's ids {list(row)[:8]} are not the tokens of their text {text[:40]!r}, and this family's "
                "processor takes answers as text; give answers=[text]."
            )
    return texts


def _with_suffix(tokenizer: Any, prompt: str, answer: str) -> Text:
    """A prompt, and an answer that is tokenized separately and appended by the processor."""
    return Text(prompt, tuple(tokenizer(answer, add_special_tokens=False)["input_ids"]), suffix=answer)


def _with_answer(tokenizer: Any, prompt: str, answer: str) -> Text:
    """A prompt that ends in its answer; no token may contain parts of both, as none does when a model generates."""
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    if ids[: len(before)] != before:
        raise InputError(
            f"The answer {answer[:40]!r} begins in the middle of a token: its first characters merge with the end of "
            f"the prompt, {prompt[-20:]!r}. Take white space off the beginning of the answer."
        )
    return Text(prompt + answer, tuple(ids[len(before) :]))


def _process(
    processor: Any, texts: list[Text], nested: list[list[Image.Image]], videos: list[SampledVideo]
) -> dict[str, Any]:
    """Run the processor, with padding on the left; errors that it raises about images become an ImageError."""
    suffixes = [text.suffix for text in texts if text.suffix is not None]
    options: dict[str, Any] = {"suffix": suffixes} if suffixes else special_tokens(processor.tokenizer, texts[0].full)
    sizes = [f"{image.width} x {image.height}" for row in nested for image in row]
    shown = [*sizes, *(f"{len(one.sampled)} frames of {'{} x {}'.format(*one.video.size)}" for one in videos)]
    if videos:
        options |= {"videos": [one.pixels for one in videos], "video_metadata": metadata_of(videos)}
        options["do_sample_frames"] = False
    try:
        encoded = processor(
            text=[text.full for text in texts], images=nested if sizes else None, padding=True, padding_side="left",
            return_tensors="pt", **options,
        )  # fmt: skip
    except (ValueError, ZeroDivisionError, RuntimeError) as error:  # the last: torch, where views do not fit together
        if not shown:
            raise InputError(f"The model's processor refused the text: {error}. Change the prompt.") from error
        listed = ", ".join(list(dict.fromkeys(shown))[:8])
        advice = "Crop, pad or resize them" + (", or give more or fewer frames." if videos else ".")
        kind = "images" if sizes else "videos"
        raise ImageError(f"The model's processor refused the {kind} ({listed} pixels): {error}. {advice}") from error
    tensors = {name: tensor for name, tensor in encoded.items() if name != "labels"}  # labels are for training
    if not suffixes:
        return tensors
    shape = tensors["input_ids"].shape  # every row ends in the end token after its suffix, which is removed here
    return {name: tensor[:, :-1] if tensor.shape == shape else tensor for name, tensor in tensors.items()}


def _rows(images: Any, prompts: Any) -> tuple[list[list[Message]], list[list[Picture | Video]], list[Passages | None]]:
    """Conversations, sources and passages, row by row; one image serves all prompts, one prompt all images."""
    several = isinstance(prompts, list | tuple) and not _is_conversation(prompts)
    listed = list(prompts) if several else [prompts]
    per_row = [_as_list(row) for row in images] if isinstance(images, list | tuple) else [_as_list(images)]
    n_rows = max(len(listed), len(per_row))
    if n_rows == 0 or {len(listed), len(per_row)} - {1, n_rows}:
        raise InputError(
            f"{len(per_row)} rows of images and {len(listed)} prompts were given; give equally many, or one of "
            "either. For two images in one prompt give a list in the list: prepare([[a, b]], prompt)."
        )
    listed, per_row = (rows * n_rows if len(rows) == 1 else rows for rows in (listed, per_row))
    separated = [taken_out(row) for row in per_row]
    passages = [one for _, one in separated]
    per_row = [_in_order(images, prompt) for (images, _), prompt in zip(separated, listed, strict=True)]
    cache: dict[int, Picture | Video] = {}
    sources = [[cache.setdefault(id(image), _source(image)) for image in row] for row in per_row]
    kinds = [["video" if isinstance(one, Video) else "image" for one in row] for row in sources]
    conversations = [_conversation(prompt, row) for prompt, row in zip(listed, kinds, strict=True)]
    return conversations, sources, passages


def _as_list(images: Any) -> list[Any]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _source(image: Any) -> Picture | Video:
    """An image as a Picture, or a Video. Regions are in pixels of the upright image, so its image must be upright."""
    if isinstance(image, Video):
        return image
    if isinstance(image, VideoFrames):
        raise InputError(
            f"{image.moment} of a video were given as a picture; give .image of it to use it as one, or the Video."
        )
    if not isinstance(image, Picture):
        return Picture(read_image(image))
    if not is_upright(image.image):
        raise ImageError(
            "The Picture's image carries an EXIF orientation that was not applied, so its regions may be in other "
            "pixels than the model would see. Make it with Picture(gaze_lens.regions.read_image(path), regions)."
        )
    return replace(image, image=read_image(image.image))


def _is_conversation(prompts: Any) -> bool:
    return isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], dict)


def _parts(conversation: Any) -> list[dict[str, Any]]:
    """The parts of all messages: {"type": "image"}, {"type": "text", "text": ...}, ..."""
    parts = []
    for message in conversation:
        content = message.get("content") if isinstance(message, dict) else None
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not (isinstance(content, list) and all(isinstance(part, dict) for part in content) and "role" in message):
            raise InputError(
                f'The chat message {message!r} was given; expected {{"role": "user", "content": ...}} with a text or a '
                'list of parts, such as [{"type": "image"}, {"type": "text", "text": "What is this?"}].'
            )
        parts += content
    refuse_other_parts(parts)
    return parts


def _in_order(sources: list[Any], prompt: Any) -> list[Any]:
    """The images and videos of a row in the order of their placeholders.

    A placeholder may carry its image, as {"type": "image", "image": ...} or "path" (Hugging Face's format), or its
    Video, as {"type": "video", "video": Video(...)}; otherwise it takes the next one of `sources` of its kind.
    """
    parts = _parts(prompt) if _is_conversation(prompt) else []
    remaining, ordered = list(sources), []
    for part in (part for part in parts if part.get("type") in SEEN):
        of_video = part["type"] == "video"
        key = next((key for key in (("video",) if of_video else ("image", "path", "url")) if key in part), None)
        if key is not None:
            ordered.append(part[key])
            continue
        index = next((i for i, one in enumerate(remaining) if isinstance(one, Video) == of_video), None)
        ordered += [] if index is None else [remaining.pop(index)]
    return ordered + remaining


def _conversation(prompt: Any, kinds: Sequence[str]) -> list[Message]:
    """A prompt as chat messages, its images and videos first; chat messages must contain a placeholder for each.

    kinds: "image" or "video", of each in the order of the prompt.
    """
    if isinstance(prompt, str):
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": prompt}]
        return [{"role": "user", "content": content}]
    if not _is_conversation(prompt):
        raise InputError(f"A prompt is a text or a list of chat messages; {type(prompt).__name__} was given.")
    for kind in SEEN:
        given, placeholders = list(kinds).count(kind), sum(part.get("type") == kind for part in _parts(prompt))
        if placeholders > given:
            raise InputError(
                f"The chat messages have {placeholders} {kind} placeholders, and {given} {kind}s were given; give "
                f"{'an image' if kind == 'image' else 'a video'} for each: prepare({kind}, messages), or "
                "prepare([[a, b]], messages) for two."
            )
        if placeholders < given:
            raise InputError(
                f"The chat messages have {placeholders} {kind} placeholders, and {given} {kind}s were given; write "
                f'{{"type": "{kind}"}} into the content once for every {kind}.'
            )
    return [{**message, "content": _without_videos(message["content"])} for message in prompt]


def _without_videos(content: Any) -> Any:
    """A message's content without what its videos are, which is no business of a chat template."""
    if isinstance(content, str):
        return content
    return [{"type": "video"} if part.get("type") == "video" else part for part in content]


def _refuse_placeholders(processor: Any, conversation: list[Message]) -> None:
    """InputError where a text contains a placeholder token: it would stand for an image that was not passed."""
    for part in _parts(conversation):
        text = part.get("text")
        for token in (getattr(processor, name, None) for name in PLACEHOLDERS):
            if isinstance(text, str) and isinstance(token, str) and token in text:
                raise InputError(
                    f"The prompt {text[:60]!r} holds the placeholder token {token}, which stands for a picture. Leave "
                    'it out: prepare(image, prompt) puts placeholders in, and chat messages say {"type": "image"}.'
                )
