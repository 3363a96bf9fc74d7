"""A part of the GPU check that ends as it is told: ``python -m tests.support.part ends|raises|hangs``."""

import os
import subprocess
import sys
import time

from benchmarks.gpu.parts import answering

if sys.argv[1] == "hangs":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=False)
    print(os.getpid(), child.pid, file=sys.stderr, flush=True)
    time.sleep(600)
answer = answering()
answer({"begun": "a"})
print("printed", flush=True)
if sys.argv[1] == "raises":
    raise ValueError("it cannot be")
