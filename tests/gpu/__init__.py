"""What a machine with one CUDA GPU can say of this project: `make gpu`, or `python -m tests.gpu`.

It was written where no GPU was at hand, and was not run on one: on the CPU it runs as far as that goes
(`--device cpu`, tests/journey/test_gpu_script.py). Its tolerances and sizes were chosen beforehand, not fitted. It is
made for six minutes: after 330 s nothing new is begun.

Needed are torch, numpy, pyarrow and the small wheels of pyproject.toml, but neither Ray nor MLflow: everything trains
inline. Several GPUs, and NCCL between them, are not tried.
"""
