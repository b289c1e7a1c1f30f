import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data import encoder_folder, real_data
from helpers.networks import make_trainer
from helpers.params import PROJECT, edit_params, prune_spec
from safetensors.torch import save_file

from prunelab.artifacts.networks import ModelCard, Network, load_network, save_network
from prunelab.commands.check import find_problems
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig, Dataset
from prunelab.data.splits import split_off
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.table_file import read_table
from prunelab.encoders.pretrained import SMALL, encoder_options, tokenizer
from prunelab.models.catalogue import MODELS, build, prunable_weights
from prunelab.models.weights import load_weights, weights_file
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


def dataset(path: Path | str | None, **wanted: object) -> Dataset:
    source = DataConfig(
        Path("unused"), str(path) if path is not None else None, **{"tokens": 8} | wanted
    )  # type: ignore
    return DATASETS["text_tsv"](source)


def test_texts_become_token_ids_between_marks_cut_or_padded(tmp_path):
    long = ("good", " ".join(["word"] * 30))
    texts = dataset(table(tmp_path / "all.tsv", [*ROWS, long]))
    raw = texts.read()
    assert texts.info().shape == (8,)
    assert texts.info().classes == 2
    assert raw.class_names == ["bad", "good"]
    assert raw.train.labels.tolist() == [1, 0, 1, 0, 1]
    assert raw.test is None
    assert raw.validation is None
    words = tokenizer("none")
    for ids, (_, text) in zip(raw.train.inputs, [*ROWS, long], strict=True):
        expected = [
            words.cls_token_id,
            *words.convert_tokens_to_ids(text.split())[:6],
            words.sep_token_id,
        ]
        assert ids.tolist() == expected + [words.pad_token_id] * (8 - len(expected))
    assert raw.train.inputs.dtype == np.int64


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("validation", ["validation", "dev"])
def test_official_parts_are_found_in_a_folder_and_behind_a_prefix(tmp_path, prefix, validation):
    stem = f"{tmp_path}/mine{'_' if prefix else '/'}"
    for part, rows in (("train", ROWS), (validation, ROWS[:2]), ("test", ROWS[1:3])):
        table(Path(f"{stem}{part}.tsv"), rows)
    raw = dataset(tmp_path / "mine").read()
    assert [len(part.labels) for part in (raw.train, raw.validation, raw.test)] == [4, 2, 2]
    np.testing.assert_array_equal(raw.test.inputs, raw.train.inputs[1:3])


def test_csv_has_quotes_and_tsv_has_not(tmp_path):
    path = tmp_path / "quoted.csv"
    path.write_text('id,label,text\n1,x,"one, ""two""\nthree"\n2,y,four\n', encoding="utf-8")
    assert read_table(path, text_column="text", label_column="label").texts == [
        'one, "two"\nthree',
        "four",
    ]
    tsv = table(tmp_path / "plain.tsv", [("x", '"an open quote'), ("y", 'five" wide')])
    assert read_table(tsv, text_column="text", label_column="label").texts == [
        '"an open quote',
        'five" wide',
    ]


@pytest.mark.parametrize(
    ("labels", "order"), [(("10", "9"), ["9", "10"]), (("b", "10"), ["10", "b"])]
)
def test_labels_are_sorted_numbers_by_value(tmp_path, labels, order):
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
def test_tables_that_cannot_be_used_are_refused_by_line(tmp_path, content, problems):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    (line,) = dataset(path).damaged()
    assert all(problem in line for problem in [str(path), *problems])
    with pytest.raises(InputError) as refused:
        dataset(path).read()
    assert refused.value.problems == [line]


def test_labels_must_be_the_same_in_all_parts(tmp_path):
    table(tmp_path / "train.tsv")
    table(tmp_path / "test.tsv", [*ROWS[:2], ("odd", "text")])
    (line,) = dataset(tmp_path).damaged()
    assert "'odd' occurs in" in line
    assert "not in" in line


def test_sources_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("label\ttext\n")
    for path in (None, tmp_path / "absent", tmp_path / "notes.txt", tmp_path):
        (line,) = dataset(path).missing()
        assert line.startswith("data.source: ")
        assert "valid" in line or "needs" in line
        assert not dataset(path).reachable()
        with pytest.raises(InputError, match=r"data\.source"):
            dataset(path).info()
    table(tmp_path / "train.tsv")
    table(tmp_path / "train.csv")
    with pytest.raises(InputError, match="could both be the train split"):
        dataset(tmp_path).read()


def test_the_digest_follows_the_content(tmp_path):
    digests = [dataset(table(tmp_path / "t.tsv", rows)).digest() for rows in (ROWS, ROWS, ROWS[:3])]
    assert digests[0] == digests[1] != digests[2]
    used = dataset(tmp_path / "t.tsv")
    used.read()
    assert used.digest() == digests[2]  # whatever was done with the tokenizer before


def test_real_sentences_are_read_whole(tmp_path):
    folder = real_data("PRUNELAB_TEXT", Path("data/raw/text"), "SST-2", "sst2_train.tsv")
    raw = dataset(folder / "sst2", tokens=64, weights="minilm").read()
    assert [len(part.labels) for part in (raw.train, raw.validation, raw.test)] == [6920, 872, 1821]
    assert raw.class_names == ["0", "1"]


def test_the_packaged_encoder_is_the_one_that_its_library_computes(tmp_path):
    from transformers import BertModel

    options = encoder_options("minilm")
    model = build("bert", 2, (16,), **options).eval()
    path = weights_file("minilm", "bert")
    load_weights(model, path)
    ids = torch.from_numpy(
        dataset(table(tmp_path / "t.tsv"), tokens=16, weights="minilm").read().train.inputs
    )
    with torch.no_grad():
        theirs = (
            BertModel.from_pretrained(path.parent)
            .eval()(ids, attention_mask=(ids != 0).long())
            .last_hidden_state
        )
        lengths = (ids != 0).sum(1)
        pooled = torch.stack(
            [states[:length].mean(0) for states, length in zip(theirs, lengths, strict=True)]
        )
        torch.testing.assert_close(model(ids), model.classifier(pooled), rtol=1e-4, atol=1e-5)


def keyword_texts(folder: Path, count: int) -> Path:
    """A table of random words among which one tells the label."""
    random = np.random.default_rng(0)
    fill = ["the", "film", "was", "and", "it", "of", "actor", "scene", "music", "then"]
    rows = []
    for index in range(count):
        words = [*random.choice(fill, random.integers(3, 9)), ("dull", "great")[index % 2]]
        rows.append((("bad", "good")[index % 2], " ".join(random.permutation(words))))
    return table(folder / "keywords.tsv", rows)


def test_an_encoder_learns_from_a_table_keeps_its_masks_and_is_saved_whole(
    tmp_path, execution, recipe
):
    raw = dataset(keyword_texts(tmp_path, 240), tokens=16).read()
    train, validation = split_off(raw.train, 0.2, seed=0)
    trainer = make_trainer(train, validation, execution=execution)
    options = SMALL | {"hidden": 32, "intermediate": 64}
    model = build("bert", 2, (16,), seed=0, **options)
    recipe = recipe.model_copy(
        update={"epochs": 4, "batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3}
    )
    before = trainer.fit(model, recipe.model_copy(update={"epochs": 0})).history
    assert before == []
    assert trainer.fit(model, recipe).history[-1]["validation_accuracy"] > 0.95
    saliency = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
    selection = Selection(WEIGHT, Scope.GLOBAL, prune_spec("l1_unstructured", 0.5))
    kept = choose_masks(saliency, 0.5, selection)
    masking.apply(model, kept)
    one_epoch = recipe.model_copy(update={"epochs": 1})
    fitted = trainer.fit(model, one_epoch, callback=CallAfterStep(masking.hold(model, kept)))
    masking.verify(model, kept)
    assert fitted.history[-1]["validation_accuracy"] > 0.95
    card = ModelCard(
        model="bert",
        classes=2,
        input_shape=(16,),
        options=options,
        normalise=None,
        seed=0,
        imported=None,
    )
    save_network(tmp_path / "net.safetensors", Network(model=model, card=card, masks=kept))
    loaded = load_network(tmp_path / "net.safetensors")
    ids = torch.from_numpy(validation.inputs)
    assert torch.equal(loaded.model(ids), model.eval()(ids))
    assert loaded.card == card


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with parameters for a table of keywords and a tiny local encoder."""
    shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml")
    encoder_folder(tmp_path / "mine")
    rows = [
        (label, f"a film a {word} film") for label, word in (("bad", "dull"), ("good", "fine"))
    ] * 30
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


def test_a_study_of_texts_runs_from_the_table_to_the_metrics(workspace):
    assert find_problems() == []
    prepared, base, focus = Path("data/prepared"), Path("models/base"), Path("models/focus")
    prepare.main(Path("data/raw"), prepared)
    train_base.main(prepared, base, Path("history.json"))
    prune.main(base, prepared, focus / "pruned", "l1_head", 0.5)
    finetune.main(
        focus / "pruned", base / "final", prepared, focus / "final", Path("finetuned.json")
    )
    dense, said = Path("base.safetensors"), Path("said.safetensors")
    evaluate.main(prepared, base / "final", Path("base.json"), dense)
    evaluate.main(prepared, focus / "final", Path("m.json"), said, focus / "pruned", dense)
    metrics = json.loads(Path("m.json").read_text())
    assert metrics["accuracy"] == 1
    assert metrics["ratio_achieved"] == 0.5
    assert metrics["macs_ratio"] > 1
    assert metrics["imported"] == 1
    card = load_network(focus / "final" / "0.safetensors").card
    assert card.imported == (
        "mine",
        hashlib.sha256(Path("mine/model.safetensors").read_bytes()).hexdigest(),
    )
    assert card.options == encoder_options("mine")


@pytest.mark.parametrize(
    ("changes", "named"),
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
def test_what_does_not_fit_is_found_before_any_work_in_one_line(workspace, changes, named):
    edit_params(workspace / "params.yaml", **changes)
    (line,) = find_problems()
    assert named in line


def test_weights_that_changed_under_their_name_are_noticed(workspace):
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


@pytest.mark.parametrize("said", [True, False])
def test_marks_may_be_left_unsaid_but_must_be_there(tmp_path, said):
    folder = encoder_folder(tmp_path / "mine")
    (folder / "tokenizer_config.json").write_text(
        "{}"
    )  # the vocabulary still has [PAD], [CLS] and [SEP]
    if said:
        assert tokenizer(str(folder)).pad_token_id == 0
        return
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(content.replace("[PAD]", "[FILL]"), encoding="utf-8")
    with pytest.raises(InputError, match="no pad_token"):
        tokenizer(str(folder))


def test_a_local_encoder_brings_its_sizes_its_weights_and_its_words(tmp_path):
    folder = encoder_folder(tmp_path / "mine")
    options = encoder_options(str(folder))
    source = build("bert", 2, (8,), seed=1, **options)
    state = {f"bert.{name}": value for name, value in source.encoder.state_dict().items()}
    # As older files have them: other names for the norms, and parts that are not the encoder's.
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in state.items()
    }
    save_file(state | {"cls.predictions.bias": torch.zeros(9)}, folder / "model.safetensors")
    model = build("bert", 2, (8,), seed=2, **options)
    load_weights(model, weights_file(str(folder), "bert"))
    assert all(
        torch.equal(value, model.encoder.state_dict()[name])
        for name, value in source.encoder.state_dict().items()
    )
    raw = dataset(table(tmp_path / "t.tsv"), weights=str(folder)).read()
    assert raw.train.inputs[0].tolist() == [2, 4, 6, 5, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"hidden_size": "many"}, "hidden_size 'many'"),
        ({"vocab_size": 5}, "8 tokens, but the encoder knows 5"),
        ({"pad_token_id": 1}, "padding 0, but the encoder's is 1"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(tmp_path, config, named):
    with pytest.raises(InputError, match=named):
        tokenizer(str(encoder_folder(tmp_path / "mine", **config)))


def test_weights_that_lead_nowhere_are_refused_in_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    def no_network(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    (tmp_path / "empty").mkdir()
    for weights in (str(tmp_path / "absent"), str(tmp_path / "empty"), "somebody/something"):
        with pytest.raises(InputError) as refused:
            encoder_options(weights)
        (line,) = refused.value.problems
        assert line.startswith("weights: ")
        assert "minilm" in line


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr("prunelab.encoders.pretrained.find_spec", lambda name: None)
    for use in (
        lambda: build("bert", 2, (8,)),
        lambda: tokenizer("none"),
        lambda: encoder_options("minilm"),
    ):
        with pytest.raises(InputError, match=r"pip install prunelab\[text\]"):
            use()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"heads": 3}, "hidden size 128 is not a multiple of 3 heads"),
        ({"layers": 0}, "layers is 0"),
        ({"pad": 40000}, "pad is 40000"),
        ({"positions": 7}, "data.tokens: 8 is more than the 7 positions"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        build("bert", 2, (8,), **options)


@pytest.mark.parametrize("name", MODELS)
def test_networks_refuse_the_wrong_kind_of_input_and_name_those_that_fit(name):
    shape = (3, 8, 8) if MODELS[name].reads == "texts" else (8,)
    with pytest.raises(InputError) as refused:
        build(name, 2, shape)
    (line,) = refused.value.problems
    assert f"{name} reads" in line
    assert ("bert" in line.split("valid: ")[1]) == (MODELS[name].reads == "images")


def test_from_scratch_the_vocabulary_is_that_of_the_tokenizer():
    assert len(tokenizer("none")) == SMALL["vocab"]
