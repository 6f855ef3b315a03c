"""All quick benchmarks: ``python -m benchmarks``. The study of starts is ``python -m benchmarks.initialisation``."""

from benchmarks import gpu, loading, training_step

for part in (training_step, loading, gpu):
    part.main()
