"""Find the wrong labels in a folder of images: one page of those that are most likely mislabelled.

python find_label_errors.py path/to/my_images
python find_label_errors.py path/to/labels.csv runs=3
python find_label_errors.py data=mnist 'data.source.parts=[test]'
python find_label_errors.py multirun/runs
"""

from __future__ import annotations

import sys

from rethinkgen.commands.find_label_errors import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program=sys.argv[:1]))
