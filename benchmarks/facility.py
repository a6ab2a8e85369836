"""Devices, waiting times and load on the store of a facility: a discrete simulation.

Jobs arrive at random, wait in one queue, first come, first served, and run on the first free device, as with Parfocal's
controllers. Service times are measured ones (`MEASURED`); facilities are assumed (`SCENARIOS`). Give your own figures
to simulate your facility:

    .venvs/orchestrator/bin/python benchmarks/facility.py
    .venvs/orchestrator/bin/python benchmarks/facility.py --users 40 --speed 15

It requires numpy only, and takes less than a minute.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_HOUR, _DAY = 3600.0, 86_400.0
_WORKING_HOURS = (8, 18)


@dataclass(frozen=True)
class Measured:
    """What a job costs on one device. Seconds on the processor that they were measured on, bytes and requests.

    Parameters
    ----------
    start
        Seconds from a free device to the first epoch or image: a process starts and loads its framework.
    training
        Seconds of a training of CARE 2D on 21 images of 512x512, 20 epochs, in float32.
    image
        Seconds of an image of 1024x1024 through CARE 2D in float32, from folder to folder.
    image_bytes
        Of such an image in 16 bit; a restored one has 32 bit.
    model_bytes
        Of a model with its report.
    training_requests, prediction_requests, image_requests
        Requests to the store: of a training of ten epochs, of a prediction, and of each of its images besides.
    """

    start: float = 8.0
    training: float = 522.0
    image: float = 2.65
    image_bytes: float = 2.1e6
    model_bytes: float = 5e6
    training_requests: float = 88.0
    prediction_requests: float = 43.0
    image_requests: float = 7.0


MEASURED = Measured()


@dataclass(frozen=True)
class Scenario:
    """What is asked of a facility in a day.

    Parameters
    ----------
    users
        People who work on weekdays from 8 to 18 o'clock.
    trainings, predictions
        Of each of them in a day; times of arrival are independent.
    images
        Of such a prediction: mean of a log-normal distribution (sigma 1).
    batch_images
        Images of microscopes in a day, spread evenly over day and night.
    shard_seconds
        Length of the jobs that the microscopes' images are put into.
    """

    name: str
    users: int
    trainings: float = 0.2
    predictions: float = 4.0
    images: float = 30.0
    batch_images: float = 0.0
    shard_seconds: float = 300.0


SCENARIOS = (
    Scenario("10 users", users=10),
    Scenario("1,000 users", users=1000),
    Scenario("10 million images a day", users=0, batch_images=10e6),
)


@dataclass(frozen=True)
class Job:
    """A job: when it is asked for, for how many seconds it has a device, its kind and its images."""

    arrival: float
    seconds: float
    kind: str
    images: int


@dataclass(frozen=True)
class Outcome:
    """What came out with a number of devices: waiting times by kind in seconds, share of time that devices work."""

    devices: int
    waits: dict[str, NDArray[np.float64]]
    busy: float


def arrivals(scenario: Scenario, costs: Measured, speed: float, days: int, seed: int) -> list[Job]:
    """Return the jobs of some weekdays, by arrival.

    Parameters
    ----------
    speed
        How many times as fast as the measured one a device computes. The start of a process does not get faster.
    """
    rng = np.random.default_rng(seed)
    begin, end = _WORKING_HOURS
    jobs: list[Job] = []
    for day in range(days):
        for kind, each in (("training", scenario.trainings), ("prediction", scenario.predictions)):
            count = rng.poisson(scenario.users * each)
            for moment in rng.uniform(begin * _HOUR, end * _HOUR, count):
                images, seconds = 21, costs.training / speed
                if kind == "prediction":
                    images = max(1, round(rng.lognormal(math.log(scenario.images) - 0.5, 1.0)))
                    seconds = images * costs.image / speed
                jobs.append(Job(day * _DAY + moment, costs.start + seconds, kind, images))
        if scenario.batch_images:
            of_a_shard = max(1, int((scenario.shard_seconds - costs.start) * speed / costs.image))
            shards = math.ceil(scenario.batch_images / of_a_shard)
            seconds = costs.start + of_a_shard * costs.image / speed
            moments = rng.uniform(0, _DAY, shards)
            jobs += [Job(day * _DAY + moment, seconds, "batch", of_a_shard) for moment in moments]
    return sorted(jobs, key=lambda job: job.arrival)


def run(jobs: list[Job], devices: int, days: int) -> Outcome:
    """Let the jobs run on that many devices, first come, first served."""
    free = [0.0] * devices
    waits: dict[str, list[float]] = {}
    for job in jobs:
        start = max(job.arrival, heapq.heappop(free))
        waits.setdefault(job.kind, []).append(start - job.arrival)
        heapq.heappush(free, start + job.seconds)
    busy = sum(job.seconds for job in jobs) / (devices * days * _DAY)
    return Outcome(devices, {kind: np.array(values) for kind, values in waits.items()}, busy)


def smallest(jobs: list[Job], days: int, seconds: float) -> Outcome:
    """Return the outcome with the fewest devices with which 95 % of all jobs of each kind wait at most so long."""

    def enough(outcome: Outcome) -> bool:
        return all(np.quantile(each, 0.95) <= seconds for each in outcome.waits.values())

    low, high = 0, max(1, math.ceil(sum(job.seconds for job in jobs) / (days * _DAY)))
    while not enough(outcome := run(jobs, high, days)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        candidate = run(jobs, middle, days)
        if enough(candidate):
            high, outcome = middle, candidate
        else:
            low = middle
    return outcome


def traffic(jobs: list[Job], costs: Measured, days: int) -> tuple[float, float]:
    """Return the bytes and the requests of a day, in and out, of the store."""
    volume = requests = 0.0
    for job in jobs:
        volume += costs.model_bytes
        if job.kind == "training":  # it reads pairs of a quarter of the size
            volume += 2 * job.images * costs.image_bytes / 4
            requests += costs.training_requests
        else:  # it reads 16 bit and writes 32
            volume += 3 * job.images * costs.image_bytes
            requests += costs.prediction_requests + costs.image_requests * job.images
    return volume / days, requests / days


def rows(scenario: Scenario, costs: Measured, speed: float, days: int, waits: tuple[float, ...]) -> Iterator[str]:
    """Yield a line of the table for each waiting time that is asked for."""
    jobs = arrivals(scenario, costs, speed, days, seed=1)
    volume, requests = traffic(jobs, costs, days)
    for seconds in waits:
        outcome = smallest(jobs, days, seconds)
        every = np.concatenate(list(outcome.waits.values()))
        yield (
            f"| {scenario.name} | {speed:g} | {seconds / 60:g} min | {outcome.devices:,} | {outcome.busy:.0%} | "
            f"{np.median(every) / 60:.1f} min | {np.quantile(every, 0.95) / 60:.1f} min | {volume / 1e9:,.1f} GB | "
            f"{requests / _DAY:.2f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, help="a facility of your own instead of the three")
    parser.add_argument("--batch-images", type=float, default=0.0, help="images of its microscopes in a day")
    parser.add_argument("--trainings", type=float, default=0.2, help="of a user in a day")
    parser.add_argument("--predictions", type=float, default=4.0, help="of a user in a day")
    parser.add_argument(
        "--speed", type=float, nargs="+", default=[1.0, 20.0], help="of a device, times the measured one"
    )
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--image-seconds", type=float, default=MEASURED.image, help="measured with your own images")
    options = parser.parse_args()
    costs = replace(MEASURED, image=options.image_seconds)
    scenarios: tuple[Scenario, ...] = SCENARIOS
    if options.users is not None:
        own = Scenario("own", options.users, options.trainings, options.predictions, batch_images=options.batch_images)
        scenarios = (own,)
    columns = ("Facility", "Speed", "95 % wait at most", "Devices", "Busy", "Median wait", "95 % wait")
    columns += ("Store a day", "Requests a second")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for scenario in scenarios:
        for speed in options.speed:
            for line in rows(scenario, costs, speed, options.days, (60.0, 600.0)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
