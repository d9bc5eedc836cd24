"""Does a flight arrive in time, late or not at all? A table with categories and missing values.

    python jobs/classification/flights_data.py data/flights
    streamtrain pack data/flights/flights.csv data/flights/packed --label arrived --group date --missing mean --mask
    streamtrain train jobs/classification/flights.py

Each category has a vector of its own, which is learned. Numbers that are missing became the training rows' mean in
`pack`, and a mask tells the model where. All flights of a day are in one split.
"""

import torch

import streamtrain as st

CATEGORIES = {"weekday": 7, "carrier": 16, "origin": 3, "dest": 105}
NUMBERS = 8  # hour, distance and six of the weather
WIDTH = 128


class Table(torch.nn.Module):
    """Scores of the three classes, (rows, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = torch.nn.ModuleList(torch.nn.Embedding(count, 8) for count in CATEGORIES.values())
        self.norm = torch.nn.BatchNorm1d(NUMBERS)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 * NUMBERS + 8 * len(CATEGORIES), WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, 3),
        )

    def forward(self, numbers: torch.Tensor, missing: torch.Tensor, *categories: torch.Tensor) -> torch.Tensor:
        vectors = [of(category.long()) for of, category in zip(self.vectors, categories, strict=True)]
        return self.layers(torch.cat([self.norm(numbers.float()), missing.float(), *vectors], dim=1))


job = st.Job(
    data=st.Data("data/flights/packed", inputs=("features", "features_missing", *CATEGORIES), target="arrived"),
    model=Table,
    mode=st.Epochs(max_passes=6),
    optimizer=st.AdamW(lr=2e-3, weight_decay=0.01),
    schedule=st.Schedule("cosine", warmup_steps=100),
    batch_size=512,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
