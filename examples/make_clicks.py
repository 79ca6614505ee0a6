"""Write clicks.parquet, a small click log to try own_table.py on: one row a job shown.

Columns: request_id (string), time_us (timestamp), title (string) and years (float) of the member, job (integer) and
job_title (string), click and apply (bool). Members click on jobs of their own title, most with about eight years of
experience; three in ten clicks lead to an application.

Letters: R requests · C candidates, flat.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_SHOWN, NUM_JOBS = 8, 200
TITLES = ("clerk", "cook", "driver", "nurse", "pilot", "smith", "tailor", "teacher")


def clicks(num_requests: int, seed: int) -> pa.Table:
    """A log of so many requests, in order of time."""
    random = np.random.default_rng(seed)
    minute_R = np.sort(random.integers(0, 28 * 24 * 60, num_requests))
    title_R = random.integers(0, len(TITLES), num_requests)
    years_R = random.gamma(2.0, 4.0, num_requests).round(1)
    request_C = np.repeat(np.arange(num_requests), NUM_SHOWN)
    job_C = random.integers(0, NUM_JOBS, num_requests * NUM_SHOWN)
    appeal = random.normal(0.0, 0.5, NUM_JOBS)
    same_C = job_C % len(TITLES) == title_R[request_C]
    bent_C = -(((years_R[request_C] - 8.0) / 8.0) ** 2)
    click_C = random.random(len(job_C)) < 1 / (1 + np.exp(2.2 - appeal[job_C] - 2.0 * same_C - bent_C))
    apply_C = click_C & (random.random(len(job_C)) < 0.3)
    start = np.datetime64("2025-03-03T00:00:00", "us")
    return pa.table(
        {
            "request_id": [f"r{r:06d}" for r in request_C],
            "time_us": start + minute_R[request_C] * np.timedelta64(60_000_000, "us"),
            "title": np.array(TITLES)[title_R[request_C]],
            "years": years_R[request_C],
            "job": job_C,
            "job_title": np.array(TITLES)[job_C % len(TITLES)],
            "click": click_C,
            "apply": apply_C,
        }
    )


if __name__ == "__main__":
    pq.write_table(clicks(num_requests=8_000, seed=0), "clicks.parquet")
