"""Which package of the standard library do 32 words of source come from? A BERT-like classifier, with AdamW.

    python jobs/classification/packages_data.py data/packages
    streamtrain pack data/packages/words.parquet data/packages/packed --split-column split
    streamtrain train jobs/classification/packages.py
    streamtrain train jobs/classification/packages.py --optimizer sgd --optimizer.lr 0.1   # hardly gets off the ground

Eight layers that normalize after each sum, as BERT's do. Texts of one file are in one split.
"""

import torch

import streamtrain as st

VOCABULARY, WORDS, CLASSES = 2048, 32, 8
WIDTH, HEADS, LAYERS = 64, 4, 8


class Bert(torch.nn.Module):
    """Scores of the classes, (texts, CLASSES), for (texts, WORDS) numbers of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.places = torch.nn.Embedding(WORDS, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.1, activation="gelu", batch_first=True
        )
        self.encoder = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.scores = torch.nn.Linear(WIDTH, CLASSES)
        for embedding in (self.words, self.places):
            torch.nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(words.long()) + self.places.weight)
        return self.scores(self.encoder(x).mean(1))


job = st.Job(
    data=st.Data("data/packages/packed", inputs=("words",)),
    model=Bert,
    mode=st.Epochs(max_passes=2),
    optimizer=st.AdamW(lr=1e-3, weight_decay=0.01),
    schedule=st.Schedule("cosine", warmup_steps=40),
    clip=st.Clip(norm=1.0),
    batch_size=64,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
