"""The chaos run's worker process: the real worker, on a machine whose clocks are moved."""

import os

from chaos.clocks import stand_still_on_signal
from chaos.tasks import tell_on_signal
from unstale_worker.demo import child, worker_process

if __name__ == "__main__":
    tell_on_signal()
    stand_still_on_signal(os.environ["CHAOS_SEED"] + os.environ["CHAOS_NAME"])
    child.run(worker_process.main)
