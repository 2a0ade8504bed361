"""Scores a part of Yiwen on text that nobody trained it on, and prints one line of JSON last. Each task is a file.

    python -m engine.tools.evaluate quality --model FOLDER --test TEST
    python -m engine.tools.evaluate markup [--corpus FOLDER]

`python -m engine.tools.evaluate TASK --help` says more.
"""

import argparse
import json
import sys

from engine.errors import YiwenError
from engine.tools import (
    evaluate_checks,
    evaluate_context,
    evaluate_detect,
    evaluate_marks,
    evaluate_markup,
    evaluate_quality,
    evaluate_segments,
    evaluate_terms,
)

TASKS = {
    "quality": evaluate_quality,
    "terms": evaluate_terms,
    "marks": evaluate_marks,
    "context": evaluate_context,
    "checks": evaluate_checks,
    "detect": evaluate_detect,
    "segments": evaluate_segments,
    "markup": evaluate_markup,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a part of Yiwen on held-out text.")
    tasks = parser.add_subparsers(dest="task", required=True)
    for name, task in TASKS.items():
        of_task = tasks.add_parser(name, help=task.ABOUT)
        of_task.add_argument("--json", action="store_true", help="no table before the line of JSON")
        task.add_arguments(of_task)
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    try:
        result = task.run(arguments)
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    if not arguments.json:
        print(task.show(result), file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
