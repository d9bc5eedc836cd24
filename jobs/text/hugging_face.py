"""A Hugging Face model that takes keywords and returns objects: GPT-2, small and new, or yours out of a folder.

    python jobs/text/language_data.py data/language
    streamtrain pack data/language/texts data/language/tokens --tokens 256 --tokenizer data/language/tokenizer.json
    streamtrain train jobs/text/hugging_face.py
    WEIGHTS=data/my_model streamtrain train jobs/text/hugging_face.py --optimizer.lr 5e-5

Needs `transformers`, which the extra `jobs` brings. A folder of weights is what `save_pretrained` wrote; pack the texts
with the tokenizer.json that belongs to it. Nothing is downloaded.
"""

import math
import os
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import streamtrain as st

WEIGHTS = os.environ.get("WEIGHTS")
VOCABULARY, TOKENS = 4096, 256


def model() -> torch.nn.Module:
    """The model in the folder WEIGHTS; without one, GPT-2 of 1.4 million parameters, built from its configuration."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    if WEIGHTS is not None:
        return AutoModelForCausalLM.from_pretrained(WEIGHTS, local_files_only=True, dtype=torch.float32)
    size = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": TOKENS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **size, bos_token_id=0, eos_token_id=0))


def next_tokens(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Loss and error of each token but those that begin a text: the text before says nothing of them."""
    tokens = batch["tokens"].long()
    scores = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    following, counts = tokens[:, 1:], ~batch["starts"][:, 1:]
    losses = cross_entropy(scores.transpose(1, 2), following, reduction="none") * counts
    wrong = (scores.argmax(-1) != following) & counts
    weights = counts.sum(1)
    return {"loss": st.Weighted(losses.sum(1), weights), "error": st.Weighted(wrong.float().sum(1), weights)}


job = st.Job(
    data=st.Data("data/language/tokens", extra=("tokens", "starts")),
    model=model,
    objective=next_tokens,
    error_unit="%",
    metrics={"perplexity": st.OfMeans(math.exp, "loss")},
    mode=st.Online(max_examples=2_000),
    evaluate=st.Evaluate(every=1_000, examples=200),
    optimizer=st.AdamW(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1),
    # of GPT-2's names; another model's norms and biases have their own
    groups=() if WEIGHTS else (st.Group("*ln_*", weight_decay=0.0), st.Group("*.bias", weight_decay=0.0)),
    schedule=st.Schedule("cosine", warmup_steps=20),
    clip=st.Clip(norm=1.0),
    batch_size=16,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
