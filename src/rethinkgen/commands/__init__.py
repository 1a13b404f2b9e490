"""The console command ``rethinkgen``, which is there after ``pip install``."""
