"""``publish=wandb``: runs, figures, page and report, brought to W&B from the plain files and the report."""
