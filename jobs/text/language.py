"""A small GPT on Python's own source text, in one pass.

    python jobs/text/language_data.py data/language         # texts and a tokenizer
    streamtrain pack data/language/texts data/language/tokens --tokens 256 --tokenizer data/language/tokenizer.json
    streamtrain train jobs/text/language.py

Every row holds 256 tokens, of one text or of several; no token sees another text.
"""

import math

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import streamtrain as st

VOCABULARY, TOKENS = 4096, 256
WIDTH, HEADS, LAYERS = 128, 4, 4


class Block(torch.nn.Module):
    """Attention and a perceptron, each added to what comes in, after a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = torch.nn.LayerNorm(WIDTH)
        self.query_key_value = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.norm_perceptron = torch.nn.LayerNorm(WIDTH)
        self.widen = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        parts = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, HEADS, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (rows, heads, tokens, width / heads)
        seen = scaled_dot_product_attention(query, key, value, attn_mask=sees)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(torch.nn.functional.gelu(self.widen(self.norm_perceptron(x))))


class Gpt(torch.nn.Module):
    """Scores of the next token, (rows, tokens, VOCABULARY), after each token of rows of at most TOKENS."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.places = torch.nn.Embedding(TOKENS, WIDTH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.scores = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        for embedding in (self.tokens, self.places):
            torch.nn.init.normal_(embedding.weight, std=0.02)
        for block in self.blocks:
            for last in (block.mix, block.narrow):  # so that the sum over the blocks begins as wide as one of them
                torch.nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * LAYERS))

    def forward(self, tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        texts = starts.cumsum(1)
        before = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()
        sees = (before & (texts[:, :, None] == texts[:, None, :]))[:, None]
        x = self.tokens(tokens.long()) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, sees)
        return self.scores(self.norm(x))


def loss(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean over each row's tokens but the first, in nats."""
    return cross_entropy(scores[:, :-1].transpose(1, 2), tokens[:, 1:].long(), reduction="none").mean(1)


def error(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Part of these tokens that are not the likeliest."""
    return (scores[:, :-1].argmax(-1) != tokens[:, 1:].long()).float().mean(1)


job = st.Job(
    data=st.Data("data/language/tokens", inputs=("tokens", "starts"), target="tokens"),
    model=Gpt,
    loss=loss,
    error=error,
    error_unit="%",
    metrics={"perplexity": st.OfMeans(math.exp, "loss")},
    mode=st.Online(max_examples=6_000),
    evaluate=st.Evaluate(every=2_000, examples=400),
    optimizer=st.AdamW(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1),
    groups=(st.Group("*norm*.weight", weight_decay=0.0), st.Group("*.bias", weight_decay=0.0)),
    schedule=st.Schedule("cosine", warmup_steps=40),
    clip=st.Clip(norm=1.0),
    batch_size=16,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
