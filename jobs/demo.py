"""The same model in both modes, side by side: one pass online, then many passes with early stopping.

make demo        # about two minutes on 2 cores; ends in a table of risks, gaps and standard errors
"""

import dataclasses
from pathlib import Path

import streamtrain as st

if __name__ == "__main__":
    job = st.load_job(Path(__file__).with_name("mnist.py"))
    modes = {"online": st.Online(), "epochs": st.Epochs(max_passes=20, patience=3)}
    results = {name: st.train(dataclasses.replace(job, mode=mode), name="mnist") for name, mode in modes.items()}
    print("\n" + st.table(results))
    print("\nOpen MLflow with `make ui`, then http://localhost:5000")
