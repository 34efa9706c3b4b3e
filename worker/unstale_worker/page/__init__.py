"""The page that a browser gets at ``/``, and the questions that it asks."""
