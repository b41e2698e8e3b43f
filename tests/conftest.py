import os

# Several workers share the cores: one thread each, here (this runs before torch is imported) and in what tests start.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')
