"""Stands in for a training rank: rank.py FOLDER [EXIT_CODE | deaf]. Leaves what it saw in FOLDER/rank-N.json, then ends
with EXIT_CODE, or without one waits for USR2 and ends with 75, or ignores USR2."""

import json
import os
import pathlib
import signal
import sys
import time

folder = pathlib.Path(sys.argv[1])
rank = os.environ["OMPI_COMM_WORLD_RANK"]
stopped = []
signal.signal(signal.SIGUSR2, lambda number, frame: stopped.append(number))
report = folder / f"rank-{rank}.json"
partial = report.with_suffix(".partial")
partial.write_text(json.dumps({
    "processors": sorted(os.sched_getaffinity(0)),
    "arguments": sys.argv[1:],
    "environment": dict(os.environ)}))
partial.rename(report)
deaf = sys.argv[2:] == ["deaf"]
if len(sys.argv) > 2 and not deaf:
    sys.exit(int(sys.argv[2]))
end = time.monotonic() + 60
while (deaf or not stopped) and time.monotonic() < end:
    time.sleep(0.01)
sys.exit(1 if deaf or not stopped else 75)
