"""What finished and unfinished runs say: tables, figures, and the published numbers beside ours. No torch here."""
