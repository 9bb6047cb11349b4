"""The tests, in rooms that mirror the packages."""

import os

# A process for each core: where each has threads for NumPy's products too, they wait for cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_threads, "1")
