"""What a signal raises where training is; apart, so that who tells of it need not import torch."""

import signal


class Interrupted(BaseException):
    """A signal ended the training; the same command goes on.

    No ``Exception``: nothing that forgives errors, such as a logger, may take it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
