"""Run Makefile targets one after the other, all of them even if one fails, and sum up.

Usage: run_tests.py TARGET...

The last line is "N passed, N failed" over the tests that ctest, pytest and tests/reference/run.py
count, plus one for each target that failed or that counts no tests of its own; a line
"SKIPPED: why" counts as a skipped test. Exit status 1 if anything failed.
"""

import os
import re
import subprocess
import sys
import time

CTEST = re.compile(r"\d+% tests passed(, (?P<failed>\d+) tests? failed)? out of (?P<total>\d+)")
PYTEST = re.compile(r"=+ .*?\b(?:passed|failed|errors?)\b.* in [\d.]+s.*=+$")
REFERENCE = re.compile(r"\S+ (?P<verdict>PASS|FAIL|UNSUPPORTED)\b")


def run(target: str) -> tuple[int, list[str]]:
    """Run one target, pass its output through, and return the exit status and the lines."""
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", target]
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def count(lines: list[str]) -> tuple[int, int, int]:
    """Return the numbers of tests that passed, failed and were skipped, from the runners' lines."""
    passed = failed = skipped = 0
    for line in lines:
        if match := CTEST.match(line):
            failures = int(match["failed"] or 0)
            failed += failures
            passed += int(match["total"]) - failures
        elif PYTEST.match(line):
            numbers = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", line)}
            passed += numbers.get("passed", 0) + numbers.get("xfailed", 0)
            failed += sum(numbers.get(word, 0) for word in ("failed", "error", "errors"))
            skipped += numbers.get("skipped", 0)
        elif match := REFERENCE.match(line):
            passed += match["verdict"] == "PASS"
            failed += match["verdict"] == "FAIL"
            skipped += match["verdict"] == "UNSUPPORTED"
        elif line.startswith("SKIPPED:"):
            skipped += 1
    return passed, failed, skipped


def main(targets: list[str]) -> int:
    total = [0, 0, 0]
    table = []
    for target in targets:
        print(f"\n==== make {target}", flush=True)
        start = time.monotonic()
        status, lines = run(target)
        seconds = time.monotonic() - start
        passed, failed, skipped = count(lines)
        if status != 0 and failed == 0:
            failed = 1
        elif status == 0 and passed + failed + skipped == 0:
            passed = 1
        total = [total[0] + passed, total[1] + failed, total[2] + skipped]
        table.append(
            f"{target:<12} {'FAILED' if failed else 'ok':<7} {seconds:6.0f} s   "
            f"{passed} passed, {failed} failed, {skipped} skipped"
        )
    print("\n==== Summary", *table, sep="\n")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
