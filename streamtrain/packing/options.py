"""How a data set is made: `pack`'s settings, validated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from streamtrain.checks import require_declared
from streamtrain.errors import ConfigError, complaint

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DEFAULT_SPLITS = (0.8, 0.1, 0.1)
TYPES = (*WHOLE, "float16", "float32", "float64", "text", "category")
"""What a column of a table can be made."""


@dataclass(frozen=True)
class PackOptions:
    """How a data set is made."""

    splits: tuple[float, float, float] | None = None
    """Fractions of the examples that go to train, validation and test; by default the splits that SOURCE has, else
    0.8 0.1 0.1."""
    seed: int = 0
    """Seed of the shuffle."""
    shard_bytes: int = 256 << 20
    """A shard ends before it would grow beyond this."""
    shard_examples: int | None = None
    """A shard ends after this many examples; then shard-bytes does not count."""
    label: str | None = None
    """Field or column of class labels, where the source does not say."""
    split_column: str | None = None
    """Column (or field) that names each example's split; it becomes no field."""
    group: str | None = None
    """Column whose equal values stay together: a group, e.g. a customer, is whole in one split."""
    by: str | None = None
    """Column of times or numbers by which the examples are split: the latest are held out."""
    stratify: str | None = None
    """Column whose values have the same shares in every split, to within one example each."""
    unique: Literal["together", "once"] | None = None
    """Examples of the same content, but for the label: kept together in one split, or each taken once, the first."""
    on_bad_example: Literal["stop", "skip"] = "stop"
    """An example that cannot be taken stops the packing, or is left out and listed in DEST."""
    types: tuple[str, ...] = ()
    """Types of columns of a table that are not to be told from their values, e.g. zip=text id=int64 price=float32."""
    columns: tuple[str, ...] = ()
    """Columns of a table that are taken; by default all."""
    drop: tuple[str, ...] = ()
    """Columns of a table that are left out."""
    missing: Literal["refuse", "nan", "mean", "drop"] = "refuse"
    """Cells of a table without a value: refused, kept as NaN, filled with the training rows' mean, or their rows left
    out."""
    mask: bool = False
    """Beside each field of a table with missing values one of booleans, NAME_missing, that tells which they were."""
    categories: tuple[str, ...] | None = None
    """Columns of texts that become numbers of a vocabulary; by default those of few texts that come often."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to, once and for all: they are stored as arrays, and read at once."""
    image_mode: Literal["stored", "grey", "rgb", "rgba"] = "stored"
    """Kind that images are brought to, with image-size; stored: the kind that each has, 16 bits and alpha kept."""
    image_background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue of what alpha is laid on where image-mode is grey or rgb."""
    tokens: int | None = None
    """Tokens of a row, with tokenizer: SOURCE's texts, shuffled and laid end to end, become rows of this length. Texts
    are the files of a folder, or the column `text`, or the one that columns names."""
    tokenizer: str | None = None
    """File tokenizer.json of the library tokenizers, which makes tokens of texts."""
    blocks: bool | None = None
    """Many examples in one sample of the tar, as column arrays; by default where they are small and of one shape."""
    memory_bytes: int = 1 << 30
    """Memory for examples on their way, shared by all tasks; they wait on disk, next to DEST."""
    tasks: int | None = None
    """Ray tasks; by default one a CPU where SOURCE has 4 GB or more, else none. The bytes written are the same."""

    def __post_init__(self) -> None:
        require_declared(self)
        self._check_splits()
        for name in ("shard_bytes", "shard_examples", "memory_bytes", "tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(complaint(name, expected="at least 1", found=str(value), do="raise it"))
        if self.image_size is not None and min(self.image_size) < 1:
            found = "×".join(map(str, self.image_size))
            raise ConfigError(complaint("image_size", expected="sides of at least 1", found=found, do="raise them"))
        if self.image_size is None and self.image_mode != "stored":
            do = "set image_size too, or set data.image_mode when you train: files are stored as they are"
            raise ConfigError(complaint("image_mode", expected="an image_size", found="none", do=do))
        self._check_tokens()
        for word in self.types:
            if word.rpartition("=")[2] not in TYPES or "=" not in word:
                expected, do = f"NAME=TYPE, of {', '.join(TYPES)}", "write e.g. --types zip=text"
                raise ConfigError(complaint("types", expected=expected, found=repr(word), do=do))
        for name in sorted({*self.columns, *self.type_of, *(self.categories or ())} & set(self.drop)):
            do = "name it once"
            raise ConfigError(complaint("drop", expected="other columns", found=f"{name!r}, which is asked for", do=do))
        if self.seed < 0:
            raise ConfigError(complaint("seed", expected="at least 0", found=str(self.seed), do="set one, e.g. 1"))

    def _check_splits(self) -> None:
        do = "set e.g. --splits 0.8 0.1 0.1"
        if self.splits is not None:
            whole = math.isclose(sum(self.splits), 1.0, abs_tol=1e-9)
            if not (whole and all(0 <= fraction <= 1 for fraction in self.splits)):
                expected, found = "three fractions that sum to 1", ", ".join(f"{part:g}" for part in self.splits)
                raise ConfigError(complaint("splits", expected=expected, found=found, do=do))
        ways = [name for name in ("split_column", "group", "by", "stratify") if getattr(self, name) is not None]
        ways += ["unique together"] if self.unique == "together" else []
        ways += ["splits"] if self.splits is not None and self.split_column is not None else []
        if len(ways) > 1:
            expected, do = "one way to split", "leave the others out"
            raise ConfigError(complaint("splits", expected=expected, found=" and ".join(ways), do=do))

    def _check_tokens(self) -> None:
        given = [name for name in ("tokens", "tokenizer") if getattr(self, name) is not None]
        if not given:
            return
        if len(given) == 1:
            expected = "both tokens, the length of a row, and tokenizer, a file"
            do = "e.g. --tokens 1024 --tokenizer tokenizer.json"
            raise ConfigError(complaint("tokens", expected=expected, found=f"{given[0]} alone", do=do))
        if self.tokens is not None and self.tokens < 2:
            expected, do = "at least 2, one token and the next", "set e.g. --tokens 1024"
            raise ConfigError(complaint("tokens", expected=expected, found=str(self.tokens), do=do))
        if len(self.columns) > 1:
            found, do = ", ".join(self.columns), "name one, e.g. --columns text"
            raise ConfigError(complaint("columns", expected="one column, of the texts", found=found, do=do))

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Of the splits, where they are not given."""
        return self.splits or DEFAULT_SPLITS

    @property
    def type_of(self) -> dict[str, str]:
        """``types`` by the column's name."""
        return {name: kind for name, _, kind in (word.rpartition("=") for word in self.types)}
