"""Set finished runs beside the published numbers: one page to read and to share, its tables and figures beside it.

python report.py multirun/zhang2017-table_1
python report.py multirun/runs multirun/zhang2017-label_corruption out=shared/report
python report.py multirun/zhang2017-table_1 publish=wandb
"""

from __future__ import annotations

import sys

from rethinkgen.commands.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program=sys.argv[:1]))
