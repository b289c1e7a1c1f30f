"""A BERT-class encoder (Devlin et al. 2019) under a linear classifier, for texts as token ids."""

import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.encoders.pretrained import SMALL, require

DROPOUT = 0.1  # as BERT is fine-tuned
# Ten times what any encoder has: more, from a file, would be built until memory ends.
MOST = {"layers": 512, "positions": 2**20}


class Bert(nn.Module):
    """Class scores of token ids, int64 [N, L] to float [N, classes]: the mean of what the encoder makes of each token.

    Padding is neither attended to nor averaged, so a text's scores do not depend on how far it is padded.
    """

    def __init__(self, encoder: nn.Module, hidden: int, classes: int, pad: int):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(hidden, classes)
        self.pad = pad

    def forward(self, ids: Tensor) -> Tensor:
        said = (ids != self.pad).to(self.classifier.weight.dtype)
        # Added to the attention scores, [N, 1, 1, L]: given in this form, the encoder takes it as it is.
        blind = (1 - said)[:, None, None] * torch.finfo(said.dtype).min
        states = self.encoder(input_ids=ids, attention_mask=blind).last_hidden_state
        mean = (states * said[..., None]).sum(1) / said.sum(1, keepdim=True).clamp(min=1)
        return self.classifier(self.dropout(mean))


def bert(
    classes: int,
    shape: tuple[int],
    *,
    vocab: int = SMALL["vocab"],
    hidden: int = SMALL["hidden"],
    layers: int = SMALL["layers"],
    heads: int = SMALL["heads"],
    intermediate: int = SMALL["intermediate"],
    positions: int = SMALL["positions"],
    types: int = SMALL["types"],
    pad: int = SMALL["pad"],
) -> Bert:
    """An encoder of these sizes with fresh weights, for texts of `shape` (tokens,).

    Raises:
        InputError: if the sizes contradict each other, or texts are longer than the encoder has positions.
    """
    require("transformers")
    from transformers import BertConfig, BertModel

    sizes = {
        "vocab": vocab,
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "intermediate": intermediate,
    }
    sizes |= {"positions": positions, "types": types}
    problems = [
        f"bert: {name} is {value}; valid: 1 or more" for name, value in sizes.items() if value < 1
    ]
    problems += [
        f"bert: {name} is {sizes[name]}; valid: 1 to {most}"
        for name, most in MOST.items()
        if sizes[name] > most
    ]
    if not problems and hidden % heads:
        problems.append(f"bert: hidden size {hidden} is no multiple of {heads} heads")
    if not 0 <= pad < vocab:
        problems.append(f"bert: pad is {pad}; valid: 0 to {vocab - 1}, a token of the vocabulary")
    if shape[0] > positions:
        problems.append(
            f"data.tokens: {shape[0]} is more than the {positions} positions of this encoder"
        )
    if problems:
        raise InputError(problems)
    config = BertConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=types,
        pad_token_id=pad,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    # Written out as matrix products: torchprofile sees them, and their gradients are deterministic on a GPU.
    config._attn_implementation = "eager"
    encoder = BertModel(config, add_pooling_layer=False)
    # No file keeps these: they have their values even where a network is built without any (`catalogue.skeleton`).
    for name, values in (("position_ids", torch.arange), ("token_type_ids", torch.zeros)):
        buffer = values(positions, dtype=torch.int64, device="cpu")[None]
        encoder.embeddings.register_buffer(name, buffer, persistent=False)
    return Bert(encoder, hidden, classes, pad)
