"""What counts as nearly fitted. Light: read where a result is shown, too."""

from __future__ import annotations

NEARLY_FITTED = 0.99
"""Share of the training set, labels as given: published fits of random labels are below 1."""
STEPS_TO_NEARLY_FIT = f"steps_to_fit_{NEARLY_FITTED}"
"""The first evaluated step that reached it is always recorded, besides that of the run's own threshold."""
