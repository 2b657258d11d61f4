"""`python bench/gpu.py [CALLS]`: what borrowing costs, over the real `spaces` package and a device
API on loopback: GPUs kept after failures of every kind, what the broker adds to a warm call, and
seconds asked for per second used. Says nothing of a real card.
"""

import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.space.device import Json, in_zero, started


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def main() -> None:
    calls = int((sys.argv[1:] or ["200"])[0])
    draw = random.Random(5)
    head = {"X-Authenticated": "regular", "X-Approve-Result": "quota-exceeded"}
    bad: list[Json] = [
        {"status": 503}, {"status": 500}, {"status": 404}, {"sse": ["drop"]}, {"sse": ["ping"]},
        {"sse": ["ping", "failed"]}, {"status": 429, "body": {"left": 0, "wait": -1}, "headers": head},
        {"status": 429, "body": {"left": 0, "wait": 60}, "headers": head}, {"status": 401},
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home, started(Path(home)) as device:
        with in_zero(device) as zero:
            script = [draw.choice(bad) if draw.random() < 0.2 else {} for _ in range(2 * calls)]
            kills = [0.0 if draw.random() < 0.1 else 60.0 for _ in range(2 * calls)]
            device.set(script=script, kill_after=kills)
            found = zero.run(
                *({"user": f"u{i}", "count": 3, "token_seconds": 60} for i in range(calls))
            )
            asked = device.log("/schedule")
            granted = sum("granted" in e for e in asked)
            print(f"{calls} calls, a fifth of the answers bad, a tenth of the forks killed:")
            print(f"  asked {len(asked)}, granted {granted}, kept {device.held()}")
            print(
                f"  whole {sum(one['found'] == 3 for one in found)}, wrong {sum(not one['right'] for one in found)}"
            )
            print(f"  without an owner {sum(e['user'] is None for e in asked)}")
            (canary,) = zero.run("canary")
            print(
                f"  programs of another process {canary['runs']}, slowest {canary['worst']:.2f} s"
            )
        with in_zero(device) as zero:
            device.set(warm=True)
            found = zero.run(
                *({"user": "ada", "count": 10, "token_seconds": 60} for _ in range(50))
            )
            walls = [one["wall"] * 1000 for one in found[5:]]
            print(f"warm call: median {statistics.median(walls):.0f} ms, p95 {p95(walls):.0f} ms")
            sizes = [draw.randint(100, 256) for _ in range(24)]
            device.set(warm=True)
            zero.run(
                *(
                    {"user": "ada", "texts": ["wait 0.02"] * n, "count": 0, "token_seconds": 60}
                    for n in sizes
                )
            )
            ratios = [float(e["durationSeconds"]) / e["used"] for e in device.log("/schedule")[2:]]
            print(
                f"seconds asked / used: median {statistics.median(ratios):.2f}, p95 {p95(ratios):.2f}"
            )


if __name__ == "__main__":
    main()
