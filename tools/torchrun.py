"""torchrun that ends without warnings and a traceback after Ctrl-C: the first rank reports where it stopped."""

import logging
import signal
import sys

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds, needs no traceback

from torch.distributed import run
from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing import api as processes


def is_no_echo_of_interrupt(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return 'Received 2 death signal' not in text and 'closing signal SIGINT' not in text


def main() -> None:
    for module in (agent, processes):
        module.logger.addFilter(is_no_echo_of_interrupt)
    try:
        run.main()
    except SignalException as received:
        if received.sigval != signal.SIGINT:
            raise
        sys.exit(130)


if __name__ == '__main__':
    main()
