"""One of several processes: -m tests.train.exchange FILE saves what they have of `mean_in_order` of random numbers."""

import sys

import torch
from torch import distributed

from detseg.train.exchange import mean_in_order

COUNTS = 1, 2, 3, 4, 7, 1001


def numbers(count, process):
    return torch.randn(count, generator=torch.Generator().manual_seed(process))


def main(file):
    distributed.init_process_group("gloo")
    process = distributed.get_rank()
    torch.save([mean_in_order(numbers(count, process)) for count in COUNTS], f"{file}-{process}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
