"""Flags out of the declaration: what has no words, as functions and groups, stays as the job's file says."""

import math
from pathlib import Path

import streamtrain as st
from streamtrain.cli.run_commands import declared_job
from tests.support.whole_sets import Auroc

JOB = """
import math, streamtrain as st
from tests.support.whole_sets import Auroc

def rate(step):
    return 1.0

perplexity = st.OfMeans(math.exp, "loss")
job = st.Job(st.Data("data"), print, metrics={"perplexity": perplexity, "own": min, "auroc": Auroc()}, schedule=rate,
    optimizer=st.AdamW(lr=0.1),
    groups=(st.Group("*.bias", weight_decay=0.0, clip=st.Clip(norm=2.0)), st.Group("b*", lr=1.0)))
"""


def test_functions_and_groups_stay_where_a_flag_is_set(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    job = declared_job(str(tmp_path / "job.py"), ["--batch-size", "7", "--optimizer.lr", "0.2"])
    assert job.batch_size == 7 and job.metrics["own"] is min
    assert isinstance(job.metrics["auroc"], Auroc)
    perplexity = job.metrics["perplexity"]
    assert isinstance(perplexity, st.OfMeans) and perplexity.function is math.exp and perplexity.measures == ("loss",)
    biases, others = job.groups
    assert biases == st.Group("*.bias", weight_decay=0.0, clip=st.Clip(norm=2.0)) and others == st.Group("b*", lr=1.0)
    assert job.optimizer == st.AdamW(lr=0.2)
