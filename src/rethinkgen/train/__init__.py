"""Training: the ``Classifier`` that every architecture is one of, when it is evaluated, and what is kept on the way."""
