"""A BERT-class encoder (Devlin et al. 2019) with a linear classifier, for texts as token ids."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.encoders.pretrained import SMALL, require

DROPOUT = 0.1  # as BERT is fine-tuned
# Ten times what any encoder has. A file could ask for more, and building it would fill the memory.
MAX_LAYERS = 512
MAX_POSITIONS = 2**20


@dataclass(frozen=True)
class BertSizes:
    """The sizes of an encoder.

    Args:
        vocab: number of tokens
        hidden: width of the embedding, a multiple of `heads`
        layers: number of transformer blocks
        heads: attention heads of each block
        intermediate: hidden units of each block's feed-forward network
        positions: most tokens of a text
        types: number of segment types; one text uses the first
        pad: token id of padding
    """

    vocab: int = SMALL["vocab"]
    hidden: int = SMALL["hidden"]
    layers: int = SMALL["layers"]
    heads: int = SMALL["heads"]
    intermediate: int = SMALL["intermediate"]
    positions: int = SMALL["positions"]
    types: int = SMALL["types"]
    pad: int = SMALL["pad"]

    def problems(self, tokens: int) -> list[str]:
        """One line for each size that is impossible, or too small for texts of `tokens` tokens."""
        sizes = asdict(self)
        pad = sizes.pop("pad")

        problems = [
            f"bert: {name} is {value}; valid: 1 or more"
            for name, value in sizes.items()
            if value < 1
        ]
        for name, limit in (("layers", MAX_LAYERS), ("positions", MAX_POSITIONS)):
            if sizes[name] > limit:
                problems.append(f"bert: {name} is {sizes[name]}; valid: 1 to {limit}")

        if not problems and self.hidden % self.heads:
            problems.append(
                f"bert: hidden size {self.hidden} is not a multiple of {self.heads} heads"
            )
        if not 0 <= pad < self.vocab:
            problems.append(
                f"bert: pad is {pad}; valid: 0 to {self.vocab - 1}, a token of the vocabulary"
            )
        if tokens > self.positions:
            problems.append(
                f"data.tokens: {tokens} is more than the {self.positions} positions of this encoder"
            )
        return problems


class Bert(nn.Module):
    """Classifies texts by the mean of the encoder's token states.

    Padding is neither attended to nor averaged, so the scores of a text do not depend on how far it
    is padded.
    """

    def __init__(self, encoder: nn.Module, hidden: int, classes: int, pad: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(hidden, classes)
        self.pad = pad

    def forward(self, ids: Tensor) -> Tensor:
        """Class scores, float [N, classes], of token ids, int64 [N, L]."""
        is_token = (ids != self.pad).to(self.classifier.weight.dtype)
        # Added to the attention scores. The encoder uses a mask of shape [N, 1, 1, L] as it is.
        attention_mask = (1 - is_token)[:, None, None] * torch.finfo(is_token.dtype).min
        states = self.encoder(input_ids=ids, attention_mask=attention_mask).last_hidden_state

        total = (states * is_token[..., None]).sum(1)
        mean = total / is_token.sum(1, keepdim=True).clamp(min=1)
        scores: Tensor = self.classifier(self.dropout(mean))
        return scores


def bert(classes: int, shape: tuple[int], **options: int) -> Bert:
    """An encoder with fresh weights under a classifier.

    Args:
        classes: number of classes
        shape: (tokens,), the length of the texts
        **options: fields of `BertSizes`

    Raises:
        InputError: if an option is unknown, if sizes contradict each other, or if texts are longer
            than the encoder's positions.
    """
    try:
        sizes = BertSizes(**options)
    except TypeError as error:
        raise InputError(
            f"model: bert cannot be built with the options {options}: {error}"
        ) from None

    problems = sizes.problems(tokens=shape[0])
    if problems:
        raise InputError(problems)
    return Bert(_encoder(sizes), sizes.hidden, classes, sizes.pad)


def _encoder(sizes: BertSizes) -> nn.Module:
    require("transformers")
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=sizes.positions,
        type_vocab_size=sizes.types,
        pad_token_id=sizes.pad,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    # Attention as matrix products: torchprofile counts them, and their gradients are deterministic
    # on a GPU.
    config._attn_implementation = "eager"
    encoder = BertModel(config, add_pooling_layer=False)

    # These buffers are in no file, so they need values even on the meta device
    # (`networks.build_on_meta`).
    embeddings = encoder.embeddings
    positions = torch.arange(sizes.positions, dtype=torch.int64, device="cpu")[None]
    embeddings.register_buffer("position_ids", positions, persistent=False)
    types = torch.zeros(sizes.positions, dtype=torch.int64, device="cpu")[None]
    embeddings.register_buffer("token_type_ids", types, persistent=False)
    return encoder
